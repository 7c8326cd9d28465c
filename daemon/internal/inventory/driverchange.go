package inventory

import (
	"cmp"
	"fmt"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// phaseOfDriverChange handles a device bound to another driver than declared. A device that was usable drains first:
// its driver stays while the device plugin offers it or a pod has it.
func (j *joiner) phaseOfDriverChange(decl *declaration, p place, d nodestate.Device) nodestate.Phase {
	before := j.sameBefore(decl.eni, p.pci)
	phase := nodestate.PhasePending
	if before != nil && (before.Phase != nodestate.PhasePending || before.Advertised) {
		phase = nodestate.PhaseDraining
	}
	taken := j.Taken.Value[p.pci]
	switch {
	case !j.Taken.Known || decl.remembered != nil || j.ChangingDriver[p.pci]:
		return phase
	case p.fn.UserspaceDriver() && !j.InHand(p.pci):
		j.explainForeignDriver(decl, p)
		return nodestate.PhasePending
	case !j.free(before, p.pci):
		if j.held[p.pci] {
			j.problem(reason.DriverNotBound, decl.nodeENI, decl.eni.String(), "%s is bound to %q, wanted %s, and a pod has it; it is bound once that pod has "+
				"ended", p.pci, p.fn.Driver, cmp.Or(decl.driver, taken.Driver))
		}
		return phase
	case !j.InHand(p.pci) && p.state != seen:
		// Without a netdev nothing proves that the function is still this ENI's.
		if p.fn.Driver != "" {
			j.explainNoInterface(decl, p)
		}
		return phase
	}
	d.Phase = phase
	change := DriverChange{Device: d, To: cmp.Or(decl.driver, taken.Driver)}
	if p.link != nil {
		change.Link = *p.link
	}
	j.driverChanges = append(j.driverChanges, change)
	return phase
}

// causeOfDriverChange says why a declared device drains: for its driver, or, if its declaration is unreadable, for the
// earlier reason.
func (j *joiner) causeOfDriverChange(decl *declaration, p place) string {
	to := cmp.Or(decl.driver, j.Taken.Value[p.pci].Driver)
	switch before := j.prev[decl.eni]; {
	case decl.remembered != nil && before != nil:
		return before.Cause
	case to == "" || to == p.fn.Driver:
		return "its driver is being changed"
	}
	return fmt.Sprintf("it is bound to %s, and is to be bound to %s", cmp.Or(p.fn.Driver, "no driver"), to)
}

// free says whether no pod has the device or can get it, so that its driver may change. before is its row in the Sync
// before.
func (j *joiner) free(before *nodestate.CheckpointDevice, pci device.PCIAddress) bool {
	switch {
	case !j.Attachments.Known || j.held[pci]:
		return false
	case before == nil, before.Phase == nodestate.PhasePending && !before.Advertised:
		return j.Kubelet == nil || len(j.Kubelet.Value.Allocated[pci]) == 0
	}
	return j.forgettable(before)
}

func (j *joiner) explainForeignDriver(decl *declaration, p place) {
	if decl.driver == "" {
		j.problem(reason.DriverMismatch, decl.nodeENI, decl.eni.String(), "another program has bound %s to %s, but spec.enableDPDK is false; set it to "+
			"true, or give the device back: driverctl unset-override %[1]s", p.pci, p.fn.Driver)
		return
	}
	j.problem(reason.DriverMismatch, decl.nodeENI, decl.eni.String(), "another program has bound %s to %s, but spec.dpdkDriver is %s; correct that, or "+
		"give the device back: driverctl unset-override %[1]s", p.pci, p.fn.Driver, decl.driver)
}

func (j *joiner) explainNoInterface(decl *declaration, p place) {
	j.missing = true
	j.problem(reason.NoInterface, decl.nodeENI, decl.eni.String(), "%s has no network interface in the host, and no pod of ours has it; bring the "+
		"interface back from another network namespace, or detach and attach the ENI", p.pci)
}
