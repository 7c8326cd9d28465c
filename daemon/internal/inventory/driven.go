package inventory

import (
	"cmp"
	"fmt"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// phaseDriven decides about a device that is bound to another driver than it
// should be. What was usable in its old form drains first: as long as the device
// plugin offers it or a pod has it, its driver stays.
func (j *joiner) phaseDriven(c *claim, p place, d nodestate.Device) nodestate.Phase {
	before := j.sameBefore(c.eni, p.pci)
	phase := nodestate.PhasePending
	if before != nil && (before.Phase != nodestate.PhasePending || before.Advertised) {
		phase = nodestate.PhaseDraining
	}
	taken := j.Taken.Value[p.pci]
	switch {
	case !j.Taken.Known || c.remembered != nil || j.Driving[p.pci]:
		return phase
	case p.fn.UserspaceDriver() && !j.InHand(p.pci):
		j.explainForeignDriver(c, p)
		return nodestate.PhasePending
	case !j.free(before, p.pci):
		if j.held[p.pci] {
			j.problem(reason.DriverNotBound, c.nodeENI, c.eni.String(), "%s is bound to %q, wanted %s, and a pod has it; it is bound once that pod has ended", p.pci, p.fn.Driver, cmp.Or(c.driver, taken.Driver))
		}
		return phase
	case !j.InHand(p.pci) && p.state != seen:
		// Without a netdev nothing proves that the function is still this ENI's.
		if p.fn.Driver != "" {
			j.explainNoInterface(c, p)
		}
		return phase
	}
	d.Phase = phase
	drive := Drive{Device: d, To: cmp.Or(c.driver, taken.Driver)}
	if p.link != nil {
		drive.Link = *p.link
	}
	j.drives = append(j.drives, drive)
	return phase
}

// causeDriven says why a device that is declared drains: for its driver, or for the
// reason that it had, where its declaration cannot be read.
func (j *joiner) causeDriven(c *claim, p place) string {
	to := cmp.Or(c.driver, j.Taken.Value[p.pci].Driver)
	switch before := j.prev[c.eni]; {
	case c.remembered != nil && before != nil:
		return before.Cause
	case to == "" || to == p.fn.Driver:
		return "its driver is being changed"
	}
	return fmt.Sprintf("it is bound to %s, and is to be bound to %s", cmp.Or(p.fn.Driver, "no driver"), to)
}

// free says whether nobody has the device, and nobody can be given it any more,
// so that its driver may be changed. before is its row in the Sync before.
func (j *joiner) free(before *nodestate.CheckpointDevice, pci device.PCIAddress) bool {
	switch {
	case !j.Attachments.Known || j.held[pci]:
		return false
	case before == nil, before.Phase == nodestate.PhasePending && !before.Advertised:
		return j.Kubelet == nil || len(j.Kubelet.Value.Allocated[pci]) == 0
	}
	return j.forgettable(before)
}

// explainForeignDriver reports a userspace driver that is not the daemon's to
// take away.
func (j *joiner) explainForeignDriver(c *claim, p place) {
	if c.driver == "" {
		j.problem(reason.DriverMismatch, c.nodeENI, c.eni.String(), "another program has bound %s to %s, but spec.enableDPDK is false; set it to true, or give the device back: driverctl unset-override %[1]s", p.pci, p.fn.Driver)
		return
	}
	j.problem(reason.DriverMismatch, c.nodeENI, c.eni.String(), "another program has bound %s to %s, but spec.dpdkDriver is %s; correct that, or give the device back: driverctl unset-override %[1]s", p.pci, p.fn.Driver, c.driver)
}

func (j *joiner) explainNoInterface(c *claim, p place) {
	j.missing = true
	j.problem(reason.NoInterface, c.nodeENI, c.eni.String(), "%s has no network interface in the host, and no pod of ours has it; bring the interface back from another network namespace, or detach and attach the ENI", p.pci)
}
