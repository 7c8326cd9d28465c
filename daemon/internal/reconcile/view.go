package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// removals are the times when advertised devices were first seen to be undeclared, until the config is without them.
type removals map[device.ENIID]time.Time

func (m removals) note(src inventory.Sources, res inventory.Result) {
	now := make(map[device.ENIID]nodestate.Phase, len(res.Devices))
	for _, d := range res.Devices {
		now[d.ENIID] = d.Phase
	}
	maps.DeleteFunc(m, func(eni device.ENIID, _ time.Time) bool { return now[eni] == nodestate.PhaseReady }) // declared again
	for _, d := range src.Checkpoint.Devices {
		if d.Phase == nodestate.PhaseReady && d.ResourceName != "" && now[d.ENIID] != nodestate.PhaseReady && m[d.ENIID].IsZero() {
			m[d.ENIID] = src.Now
		}
	}
}

// withdraw is called when the config is without the devices. It returns how long each took, sorted, and forgets them.
func (m removals) withdraw(now time.Time) (took []time.Duration) {
	for _, since := range m {
		took = append(took, now.Sub(since))
	}
	clear(m)
	slices.Sort(took)
	return took
}

func (r *Reconciler) observe(begun time.Time, src inventory.Sources) {
	if r.Observe == nil {
		return
	}
	v := r.view
	v.Number = r.releases.next
	v.At, v.Inventory, v.Plugin = r.Now().UTC().Round(0), r.files.Inventory, r.plugin.View()
	v.Declared = declared(src)
	v.Unlisted, v.ByController = !src.Complete, src.Lookup == inventory.LookupEntries
	v.Slots, v.Released = r.releases.view(src.Entries)
	v.Holders = holders(src, r.files.Inventory.Devices)
	v.Did.Took = r.clock.now().Sub(begun)
	r.Observe(v)
}
func declared(src inventory.Sources) []view.Declared {
	all := make([]view.Declared, 0, len(src.NodeENIs))
	for i := range src.NodeENIs {
		if o := &src.NodeENIs[i]; o.DeletionTimestamp == nil {
			all = append(all, view.Declared{Name: o.Name, UID: string(o.UID), Generation: o.Generation})
		}
	}
	slices.SortFunc(all, func(a, b view.Declared) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// holders lists the pods that have devices: by the records, and for draining devices also by the kubelet.
func holders(src inventory.Sources, devices []nodestate.Device) []view.Holder {
	ours := make(map[device.PCIAddress]bool, len(devices))
	for _, d := range devices {
		ours[d.PCIAddress] = d.PCIAddress != ""
	}
	all := []view.Holder{}
	for i := range src.Attachments.Value {
		a := &src.Attachments.Value[i]
		replaced := a.Device.Replaced(src.Functions.Value[a.Device.PCIAddress].Instance)
		if a.Holds(src.BootID) && ours[a.Device.PCIAddress] && !replaced {
			all = append(all, view.HolderOf(a))
		}
	}
	for _, u := range src.Unread {
		if ours[u.PCIAddress] && !u.Ended(src.BootID) {
			all = append(all, view.Holder{PCIAddress: u.PCIAddress, ContainerID: u.ID.ContainerID, IfName: u.ID.IfName})
		}
	}
	if src.Kubelet != nil {
		for pci, containers := range src.Kubelet.Value.Allocated {
			for _, c := range containers {
				if ours[pci] {
					all = append(all, view.Holder{PCIAddress: pci, Pod: c.Namespace + "/" + c.Pod, Container: c.Container})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b view.Holder) int {
		return cmp.Or(cmp.Compare(a.PCIAddress, b.PCIAddress), strings.Compare(a.Pod, b.Pod),
			strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.IfName, b.IfName), strings.Compare(a.Container, b.Container))
	})
	return all
}
