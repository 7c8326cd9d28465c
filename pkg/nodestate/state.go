package nodestate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// ReadInventory reads and checks the inventory at path. Errors: fs.ErrNotExist,
// ErrCorrupt, ErrOtherVersion, ErrUntrusted. Whether BootID is this boot's is the caller's check.
func ReadInventory(path string) (Inventory, error) {
	data, err := ReadTrusted(path)
	if err != nil {
		return Inventory{}, err
	}
	return decodeInventory(path, data)
}

func decodeInventory(path string, data []byte) (Inventory, error) {
	var inv Inventory
	if err := Decode(path, data, &inv, &inv.SchemaVersion); err != nil {
		return Inventory{}, err
	}
	for i, d := range inv.Devices {
		if err := d.validate(); err != nil {
			return Inventory{}, fmt.Errorf("parse %s: devices[%d]: %w", path, i, err)
		}
	}
	return inv, nil
}

func (d Device) validate() error {
	switch d.Phase {
	case PhasePending:
		return nil
	case PhaseReady, PhaseDraining:
	default:
		return fmt.Errorf("%w: phase %q", ErrCorrupt, d.Phase)
	}
	if d.Phase == PhaseReady && (d.PCIAddress == "" || d.MAC == "") {
		return fmt.Errorf("%w: a ready device needs mac and pciAddress", ErrCorrupt)
	}
	if d.InterfaceName != "" {
		if _, err := device.ParseInterfaceName(d.InterfaceName); err != nil {
			return fmt.Errorf("%w: interfaceName: %w", ErrCorrupt, err)
		}
	}
	return nil
}

// WriteInventory replaces the inventory at path, durably, with mode 0600.
func WriteInventory(path string, inv Inventory) error {
	data, err := Encode(inv.written())
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600, atomicfile.Durable)
}

// Checkpoint is the daemon's memory across its own restarts and the node's.
type Checkpoint struct {
	SchemaVersion int `json:"schemaVersion"`
	// NodeName is the node's, and Instance the id of the EC2 instance, whose devices these are. Both are "" in a file
	// of an older version; Instance also where IMDS has never answered.
	NodeName string `json:"nodeName,omitempty"`
	Instance string `json:"instanceID,omitempty"`
	// BootID of the boot in which Devices was observed. PCI addresses and
	// interface names of another boot prove nothing; ENI ids and MACs do.
	BootID  string             `json:"bootID"`
	Devices []CheckpointDevice `json:"devices"`
	// Forgotten: an earlier checkpoint was lost, or this is the first, so that entries
	// of the device plugin's config may be ours and not be in OwnedResources.
	Forgotten bool `json:"forgotten,omitempty"`
	// OwnedResources are the entries of the device plugin's config that the
	// daemon has written and may change or remove.
	OwnedResources []device.ResourceName `json:"ownedResources"`
	// LastGoodConfig is the device plugin's config as last parsed, from which
	// people's entries are rebuilt when the file becomes unparsable; null at first.
	LastGoodConfig json.RawMessage `json:"lastGoodConfig,omitempty"`
	// ConfirmedHash is the hash of the config that the device plugin was last confirmed to serve; "" when none was.
	ConfirmedHash string `json:"confirmedHash,omitempty"`
	// PluginPrefixes are the prefixes for which LastGoodConfig was rendered: the
	// -resource-prefix of each device plugin of this node. None before any was seen.
	PluginPrefixes []string `json:"pluginPrefixes,omitempty"`
	// DevicePlugin is how the daemon came to know that, and when it tried last.
	DevicePlugin DevicePluginMemory `json:"devicePlugin,omitzero"`
	// Offer is the daemon's memory of the devices that it offers itself.
	Offer OfferMemory `json:"offer,omitzero"`
}

// CheckpointDevice is a device as the inventory last had it.
type CheckpointDevice struct {
	Device
	// MissingSince is when its declaration or its attachment was first found absent (not unknown), as the time since
	// boot counted from 1970, which nobody sets; zero while it is declared. It means nothing in another boot.
	MissingSince time.Time `json:"missingSince,omitzero"`
	// Advertised: it was ready under a resource name at some time of this boot, at the address where it is. It may be
	// offered still, and a pod may have it that is not set up yet, though the row has no such name any more.
	Advertised bool `json:"advertised,omitempty"`
	// Instance is the PCI function that the device was (sysfs.PCIFunction.Instance):
	// another one may have its address by now. 0 where that was not seen.
	Instance uint64 `json:"instance,omitempty"`
}

// CheckpointPath returns the checkpoint's place in the daemon's state folder.
func CheckpointPath(stateDir string) string { return filepath.Join(stateDir, "checkpoint.json") }

// ReadCheckpoint reads the checkpoint at path. Errors: fs.ErrNotExist,
// ErrCorrupt, ErrUntrusted, and ErrOtherVersion. With the last the Checkpoint has the
// rows and keys that are valid in this version too, but no ConfirmedHash; see KeepOther.
func ReadCheckpoint(path string) (Checkpoint, error) {
	data, err := ReadTrusted(path)
	if err != nil {
		return Checkpoint{}, err
	}
	return decodeCheckpoint(path, data)
}

func decodeCheckpoint(path string, data []byte) (Checkpoint, error) {
	var c Checkpoint
	if err := Decode(path, data, &c, &c.SchemaVersion); errors.Is(err, ErrOtherVersion) {
		return ofOtherVersion(data), err
	} else if err != nil {
		return Checkpoint{}, err
	}
	for i, d := range c.Devices {
		if err := d.validate(); err != nil {
			return Checkpoint{}, fmt.Errorf("parse %s: devices[%d]: %w", path, i, err)
		}
	}
	return c, nil
}

// ofOtherVersion takes from a checkpoint the rows and keys that are valid in this version, one key after the other.
func ofOtherVersion(data []byte) (c Checkpoint) {
	var top map[string]json.RawMessage
	var rows []json.RawMessage
	take(data, &top)
	for key, value := range top {
		if key == "schemaVersion" || key == "devices" || key == "confirmedHash" {
			continue
		}
		if one, err := json.Marshal(map[string]json.RawMessage{key: value}); err == nil {
			next := c
			if json.Unmarshal(one, &next) == nil {
				c = next
			}
		}
	}
	take(top["devices"], &rows)
	for _, row := range rows {
		var d CheckpointDevice
		if json.Unmarshal(row, &d) == nil && d.validate() == nil && d.ENIID != "" {
			c.Devices = append(c.Devices, d)
		}
	}
	return c
}

// KeepOther keeps a file of another version under a second name, before this version writes its own in its place. A
// file that has that name already, of an earlier time, makes way.
func KeepOther(e *VersionError) error {
	kept := fmt.Sprintf("%s%s%d", e.Path, keptSuffix, e.Found)
	if err := atomicfile.Remove(kept); err != nil {
		return err
	}
	if err := os.Link(e.Path, kept); err != nil {
		return fmt.Errorf("keep file of another version: %w", err)
	}
	return atomicfile.SyncFolder(filepath.Dir(kept))
}

// keptSuffix and the schemaVersion are behind the name of a file that was kept.
const keptSuffix = ".schema-"

// KeptOther lists the copies of a file by KeepOther that are still there.
func KeptOther(path string) []string {
	kept, _ := filepath.Glob(path + keptSuffix + "*") // an error would be the pattern's
	return kept
}

// WriteCheckpoint replaces the checkpoint at path, durably, with mode 0600.
func WriteCheckpoint(path string, c Checkpoint) error {
	data, err := Encode(c.written())
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600, atomicfile.Durable)
}
