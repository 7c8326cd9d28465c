package reconcile

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
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
	v.At, v.Inventory, v.Plugin = r.Now().UTC().Round(0), r.inventory, r.keeper.view
	v.Declared = declared(src)
	v.Holders = holders(src, r.inventory.Devices)
	v.Did.Took = r.steady().Sub(begun)
	r.Observe(v)
}

func declared(src inventory.Sources) []Declared {
	all := make([]Declared, 0, len(src.NodeENIs))
	for i := range src.NodeENIs {
		if o := &src.NodeENIs[i]; o.DeletionTimestamp == nil {
			all = append(all, Declared{Name: o.Name, UID: string(o.UID), Generation: o.Generation})
		}
	}
	slices.SortFunc(all, func(a, b Declared) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// holders lists who has the devices: by the records, and for draining ones by
// the kubelet too.
func holders(src inventory.Sources, devices []nodestate.Device) []Holder {
	ours := make(map[device.PCIAddress]bool, len(devices))
	for _, d := range devices {
		ours[d.PCIAddress] = d.PCIAddress != ""
	}
	all := []Holder{}
	for i := range src.Attachments.Value {
		a := &src.Attachments.Value[i]
		replaced := a.Device.Replaced(src.Functions.Value[a.Device.PCIAddress].Instance)
		if a.Holds(src.BootID) && ours[a.Device.PCIAddress] && !replaced {
			all = append(all, HolderOf(a))
		}
	}
	for _, u := range src.Unread {
		if ours[u.PCIAddress] && !u.Ended(src.BootID) {
			all = append(all, Holder{PCIAddress: u.PCIAddress, ContainerID: u.ID.ContainerID, IfName: u.ID.IfName})
		}
	}
	if src.Kubelet != nil {
		for pci, containers := range src.Kubelet.Value.Allocated {
			for _, c := range containers {
				if ours[pci] {
					all = append(all, Holder{PCIAddress: pci, Pod: c.Namespace + "/" + c.Pod, Container: c.Container})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.PCIAddress, b.PCIAddress), strings.Compare(a.Pod, b.Pod),
			strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.IfName, b.IfName), strings.Compare(a.Container, b.Container))
	})
	return all
}

// HolderOf describes an attachment that has its device.
func HolderOf(a *nodestate.Attachment) Holder {
	return Holder{
		PCIAddress: a.Device.PCIAddress, Pod: a.Pod, PodUID: argument(a.Args, "K8S_POD_UID"),
		ContainerID: a.ContainerID, IfName: a.IfName, Mode: a.Mode, State: a.State, Addresses: addressesOf(a),
	}
}

// addressesOf are the addresses that an attachment has given its pod: those of its
// result, or its leases while there is none.
func addressesOf(a *nodestate.Attachment) []netip.Addr {
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Address   netip.Prefix
			Interface *int
		}
		// Of a cniVersion before 0.3.0.
		IP4, IP6 *struct{ IP netip.Prefix }
	}
	if a.Result == nil || json.Unmarshal(a.Result, &result) != nil {
		return a.LeasedAddresses
	}
	var all []netip.Addr
	for _, ip := range result.IPs {
		// A plugin before this one in the chain has other interfaces.
		if n := ip.Interface; n == nil || *n >= 0 && *n < len(result.Interfaces) && result.Interfaces[*n].Name == a.IfName {
			all = append(all, ip.Address.Addr())
		}
	}
	for _, ip := range []*struct{ IP netip.Prefix }{result.IP4, result.IP6} {
		if ip != nil {
			all = append(all, ip.IP.Addr())
		}
	}
	return all
}

// argument returns the value of a key of CNI_ARGS (KEY=value;KEY=value), or "".
func argument(args, key string) string {
	for pair := range strings.SplitSeq(args, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok && k == key {
			return v
		}
	}
	return ""
}
