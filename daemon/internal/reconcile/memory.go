package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// remember makes up for a checkpoint that tells no device, for the reason why. The
// inventory of this boot, which is only written after a checkpoint, tells the devices,
// and which entries of the device plugin's config offer them: these are ours. Without it
// nothing tells our entries from people's, and entriesOfNobody speaks of those.
func (r *Reconciler) remember(why error) {
	r.checkpoint.Forgotten, r.checkpointFile = true, fileMark{} // so that it is written
	if r.inventory.BootID != r.BootID {
		if !errors.Is(why, fs.ErrNotExist) {
			r.Log.WithError(why).Warn("the checkpoint is lost; devices are found again, entries of the device plugin config that nobody declares any more stay")
		}
		return
	}
	r.checkpoint.BootID = r.BootID
	offered := map[device.ResourceName][]device.PCIAddress{}
	for _, d := range r.inventory.Devices {
		if d.ENIID == "" {
			continue
		}
		advertised := d.ResourceName != "" && d.Phase != nodestate.PhasePending
		r.checkpoint.Devices = append(r.checkpoint.Devices, nodestate.CheckpointDevice{Device: d, Advertised: advertised})
		if advertised {
			offered[d.ResourceName] = append(offered[d.ResourceName], d.PCIAddress)
		}
	}
	config, err := os.ReadFile(r.Config.Path)
	if err != nil { // there is none; else it is reported where it is applied
		config = nil
	}
	for name, addrs := range entriesOfOurForm(config) {
		if len(offered[name]) > 0 && !slices.ContainsFunc(addrs, func(a device.PCIAddress) bool { return !slices.Contains(offered[name], a) }) && !slices.Contains(r.checkpoint.OwnedResources, name) {
			r.checkpoint.OwnedResources = append(r.checkpoint.OwnedResources, name)
		}
	}
	slices.Sort(r.checkpoint.OwnedResources)
	r.Log.WithError(why).Warn("the checkpoint tells nothing; the inventory of this boot counts instead")
}

// entriesOfNobody reports the entries of the device plugin's config that have the form of
// ours and that no NodeENI declares, once a checkpoint was lost. It says whether there
// may be any still.
func (r *Reconciler) entriesOfNobody(config []byte, owned []device.ResourceName, src inventory.Sources, devices []nodestate.Device) (found []problem.Finding, forgotten bool) {
	if !r.checkpoint.Forgotten || !allKnown(src) || len(config) == 0 {
		return nil, r.checkpoint.Forgotten
	}
	var names []device.ResourceName
	for name := range entriesOfOurForm(config) {
		switch {
		case slices.Contains(owned, name):
		case slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.ResourceName == name }):
			forgotten = true // it may come to be ours
		default:
			names = append(names, name)
		}
	}
	for _, name := range names {
		found = append(found, problem.Finding{Problem: nodestate.Problem{Reason: reason.CheckpointLost, Device: r.Config.Path, Message: fmt.Sprintf(
			"entry %s of the device plugin config has the form of the daemon's own, and no NodeENI declares it; it stays, because the daemon's memory (%s) was not there when it started; delete it, or give it \"deviceType\": \"netDevice\" if it is yours",
			name, nodestate.CheckpointPath(r.StateDir))}})
	}
	return found, forgotten || len(names) > 0
}

// entriesOfOurForm are the addresses of the entries that have all keys that the daemon
// writes into one, and no other (pcidp.Render). A config that cannot be parsed has none.
func entriesOfOurForm(config []byte) map[device.ResourceName][]device.PCIAddress {
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

// placeholderAddress is the one that a placeholder selects, which is no device.
const placeholderAddress = device.PCIAddress("0000:00:00.0")

// selectedByAddress are the addresses of selectors, one or a list, that have one driver
// and addresses each, and nothing else.
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
