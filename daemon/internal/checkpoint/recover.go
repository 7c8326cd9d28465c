package checkpoint

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// recover makes up for a checkpoint without devices, for the reason why. This boot's inventory, which is only written
// after a checkpoint, names the devices. Config entries that offer exactly those are ours; others may be people's.
func (f *Files) recover(why error) {
	f.Checkpoint.Forgotten, f.checkpointFile = true, fileMark{} // so that it is written
	if f.Inventory.BootID != f.BootID {
		if !errors.Is(why, fs.ErrNotExist) {
			f.Log.WithError(why).Warn("the checkpoint is lost; devices are found again, entries of the device plugin config that nobody declares any more stay")
		}
		return
	}
	f.Checkpoint.BootID = f.BootID
	offered := map[device.ResourceName][]device.PCIAddress{}
	for _, d := range f.Inventory.Devices {
		if d.ENIID == "" {
			continue
		}
		advertised := d.ResourceName != "" && d.Phase != nodestate.PhasePending
		f.Checkpoint.Devices = append(f.Checkpoint.Devices, nodestate.CheckpointDevice{Device: d, Advertised: advertised})
		if advertised {
			offered[d.ResourceName] = append(offered[d.ResourceName], d.PCIAddress)
		}
	}
	config, err := os.ReadFile(f.ConfigPath)
	if err != nil { // it is missing, or Apply reports it
		config = nil
	}
	for name, addrs := range OwnEntries(config) {
		if len(offered[name]) > 0 && !slices.ContainsFunc(addrs, func(a device.PCIAddress) bool { return !slices.Contains(offered[name], a) }) &&
			!slices.Contains(f.Checkpoint.OwnedResources, name) {
			f.Checkpoint.OwnedResources = append(f.Checkpoint.OwnedResources, name)
		}
	}
	slices.Sort(f.Checkpoint.OwnedResources)
	f.Log.WithError(why).Warn("the checkpoint tells nothing; the inventory of this boot counts instead")
}

// OwnEntries returns the addresses of each entry with exactly the keys that pcidp.Render writes; none if the config is
// invalid.
func OwnEntries(config []byte) map[device.ResourceName][]device.PCIAddress {
	var doc struct {
		ResourceList []map[string]json.RawMessage `json:"resourceList"`
	}
	if json.Unmarshal(config, &doc) != nil {
		return nil
	}
	all := map[device.ResourceName][]device.PCIAddress{}
	for _, entry := range doc.ResourceList {
		var prefix, name string
		err := errors.Join(json.Unmarshal(entry["resourcePrefix"], &prefix), json.Unmarshal(entry["resourceName"], &name))
		addrs, ok := selectedByAddress(entry["selectors"])
		resource, parseErr := device.ParseResourceName(prefix + "/" + name)
		if err == nil && parseErr == nil && ok && len(entry) == 3 && !slices.Contains(addrs, placeholderAddress) {
			all[resource] = addrs
		}
	}
	return all
}

// placeholderAddress is selected by a placeholder, and is no device.
const placeholderAddress = device.PCIAddress("0000:00:00.0")

// selectedByAddress returns the addresses of one or several selectors. ok is false unless each has only one driver and
// addresses.
func selectedByAddress(raw json.RawMessage) (addrs []device.PCIAddress, ok bool) {
	var list []map[string][]string
	if json.Unmarshal(raw, &list) != nil {
		var one map[string][]string
		if json.Unmarshal(raw, &one) != nil {
			return nil, false
		}
		list = append(list, one)
	}
	for _, s := range list {
		if len(s["drivers"]) != 1 || len(s["pciAddresses"]) == 0 || len(s) != 2 {
			return nil, false
		}
		for _, text := range s["pciAddresses"] {
			addr, err := device.ParsePCIAddress(text)
			if err != nil {
				return nil, false
			}
			addrs = append(addrs, addr)
		}
	}
	return addrs, len(list) > 0
}
