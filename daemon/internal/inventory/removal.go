package inventory

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// drainUndeclared drains an undeclared row, then returns its device to the kernel if the daemon bound it, then drops
// it.
func (j *joiner) drainUndeclared(r *nodestate.CheckpointDevice) {
	if _, declared := j.owner[r.ENIID]; declared {
		return
	}
	if j.enis[r.ENIID].Primary {
		return
	}
	same := j.rowBefore(r.ENIID)
	if same == nil {
		return
	}
	taken, bound := j.bound(same)
	if same.Phase == nodestate.PhasePending && !same.Advertised && !j.maybeHeld(same) && !bound {
		return // never offered to a pod in this boot
	}
	forgettable := j.forgettable(same)
	if forgettable && !bound {
		return
	}
	j.drain(same, j.causeOf(same), j.missingSince(same))
	if forgettable && j.Taken.Known && j.Functions.Known {
		j.driverChanges = append(j.driverChanges, DriverChange{Device: same.Device, To: taken.Driver})
	}
}

// bound says whether the daemon has bound a row's device; true if unknown.
func (j *joiner) bound(r *nodestate.CheckpointDevice) (nodestate.Restore, bool) {
	taken, ours := j.Taken.Value[r.PCIAddress]
	switch {
	case r.PCIAddress == "":
		return taken, false
	case !j.Functions.Known:
		return taken, ours || !j.Taken.Known
	case !j.Taken.Known:
		return taken, j.Functions.Value[r.PCIAddress].UserspaceDriver()
	}
	return taken, j.InHand(r.PCIAddress)
}

// giveBackStray returns devices that the daemon has bound but no row has: the checkpoint was lost, or the NodeENI
// deleted meanwhile.
func (j *joiner) giveBackStray() {
	if !j.Complete || !j.Attachments.Known || !j.Functions.Known {
		return
	}
	for _, pci := range slices.Sorted(maps.Keys(j.Taken.Value)) {
		t := j.Taken.Value[pci]
		_, declared := j.owner[t.Device.ENIID]
		hasRow := slices.ContainsFunc(j.rows, func(r row) bool { return r.PCIAddress == pci })
		given := j.Kubelet != nil && len(j.Kubelet.Value.Allocated[pci]) > 0
		if declared || hasRow || given || j.held[pci] || !j.InHand(pci) || slices.Contains(j.UnreadENIs, t.Device.ENIID) || j.undecided(t.Device.NodeENI) {
			continue
		}
		j.driverChanges = append(j.driverChanges, DriverChange{To: t.Driver, Device: nodestate.Device{
			ENIID: t.Device.ENIID, NodeENI: t.Device.NodeENI, MAC: t.Device.MAC, PCIAddress: pci,
		}})
	}
}

// causeOf says why nothing declares a row's ENI, by this Join's Sources.
func (j *joiner) causeOf(r *nodestate.CheckpointDevice) string {
	d, declared := j.declared[r.NodeENI]
	switch {
	case j.Lookup == LookupEntries:
		return j.causeOfEntry(r)
	case declared && j.others[r.ENIID] != "":
		return j.others[r.ENIID]
	case !declared && slices.ContainsFunc(j.NodeENIs, func(o v1alpha1.NodeENI) bool { return o.Name == r.NodeENI }):
		return fmt.Sprintf("NodeENI %s is being deleted", r.NodeENI)
	case !declared && j.Elsewhere != nil && j.Elsewhere(r.NodeENI):
		return fmt.Sprintf("NodeENI %s does not select this node", r.NodeENI)
	case !declared:
		return fmt.Sprintf("there is no NodeENI %s", r.NodeENI)
	case d.attached:
		return fmt.Sprintf("status.attachments of NodeENI %s does not list the ENI for this node", r.NodeENI)
	}
	return fmt.Sprintf("the ENI is not at a device index and subnet that NodeENI %s names", r.NodeENI)
}

func (j *joiner) drain(r *nodestate.CheckpointDevice, cause string, since time.Time) {
	j.keep(r, nodestate.PhaseDraining, since)
	j.rows[len(j.rows)-1].Cause = cause
}

// undecided says whether a NodeENI may mean more ENIs than it is understood to mean; for "", whether any does.
func (j *joiner) undecided(nodeENI string) bool {
	for name, d := range j.declared {
		if d.undecided && (nodeENI == "" || nodeENI == name) {
			return true
		}
	}
	return false
}

// keep takes over a row before, perhaps in another phase.
func (j *joiner) keep(r *nodestate.CheckpointDevice, phase nodestate.Phase, since time.Time) {
	d := r.Device
	d.Phase = phase
	if p := j.place(d.ENIID); p.found() && p.pci == d.PCIAddress {
		d.Driver = p.fn.Driver
	}
	if (sysfs.PCIFunction{Driver: d.Driver}).UserspaceDriver() || j.InHand(d.PCIAddress) {
		d.InterfaceName = ""
	}
	j.rows = append(j.rows, row{Device: d, missingSince: since, hostName: r.InterfaceName, instance: r.Instance})
}

// forgettable says whether a draining device may leave the inventory: the device plugin does not offer it, and no pod
// has it.
func (j *joiner) forgettable(r *nodestate.CheckpointDevice) bool {
	offered := advertised(r) && (!j.Withdrawn || j.allocatable(r))
	return r.Phase == nodestate.PhaseDraining && !offered && !j.maybeHeld(r)
}

// advertised says whether the device plugin may offer the device, or may have done so in this boot.
func advertised(r *nodestate.CheckpointDevice) bool { return r.Advertised || r.ResourceName != "" }

func (j *joiner) allocatable(r *nodestate.CheckpointDevice) bool {
	return j.Kubelet != nil && (!j.Kubelet.Known || slices.Contains(j.Kubelet.Value.Allocatable[r.ResourceName], r.PCIAddress))
}

// maybeHeld is true while the records, or for an advertised device the kubelet, cannot be read. A pod holds a device
// from its allocation on.
func (j *joiner) maybeHeld(r *nodestate.CheckpointDevice) bool {
	if !j.Attachments.Known || j.held[r.PCIAddress] {
		return true
	}
	if j.Kubelet == nil {
		return false
	}
	unsure := !j.Kubelet.Known || j.Lookup == LookupEntries && j.Kubelet.Value.Fresh // a detached ENI cannot be given back
	return advertised(r) && unsure || len(j.Kubelet.Value.Allocated[r.PCIAddress]) > 0
}
