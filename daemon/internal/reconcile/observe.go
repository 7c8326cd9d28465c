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

// noteRemovals remembers since when advertised devices are to leave the config.
func (r *Reconciler) noteRemovals(src inventory.Sources, res inventory.Result) {
	now := make(map[device.ENIID]nodestate.Phase, len(res.Devices))
	for _, d := range res.Devices {
		now[d.ENIID] = d.Phase
	}
	maps.DeleteFunc(r.removals, func(eni device.ENIID, _ time.Time) bool { return now[eni] == nodestate.PhaseReady }) // declared again
	for _, d := range src.Checkpoint.Devices {
		if d.Phase == nodestate.PhaseReady && d.ResourceName != "" && now[d.ENIID] != nodestate.PhaseReady && r.removals[d.ENIID].IsZero() {
			r.removals[d.ENIID] = src.Now
		}
	}
}

// withdrawRemovals notes that the config is without the removed devices.
func (r *Reconciler) withdrawRemovals() {
	for eni, since := range r.removals {
		r.view.Did.Withdrawn = append(r.view.Did.Withdrawn, r.steady().Sub(since))
		delete(r.removals, eni)
	}
	slices.Sort(r.view.Did.Withdrawn)
}

// observe completes the view and hands it out.
func (r *Reconciler) observe(begun time.Time, src inventory.Sources) {
	if r.Observe == nil {
		return
	}
	v := r.view
	v.At, v.Inventory, v.Plugin = r.Now().UTC().Round(0), r.inventory, r.plugin.View()
	v.Declared = declared(src)
	v.Holders = holders(src, r.inventory.Devices)
	v.Did.Took = r.steady().Sub(begun)
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

// holders lists who has the devices: by the records, and for draining ones by
// the kubelet too.
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
