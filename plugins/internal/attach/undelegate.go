package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// delDelegate runs the delegate's DEL. When it is repeated for a record that is
// released already, the device may be another pod's by now: an exclusive
// delegate, which would reset it, is then not run. Done says whether that DEL
// has run and succeeded.
func (c *call) delDelegate(r *nodestate.Record, i invocation, lock claimLock) (done bool, err error) {
	if r.State == nodestate.StateReleased && r.Mode == nodestate.ModeDelegateExclusive {
		unlock, err := c.lockClaim(r.Device.PCIAddress, lock)
		if err != nil {
			return false, err
		}
		defer unlock()
		if passed, err := c.passedOn(r.Attachment); err != nil || passed {
			return false, err
		}
	}
	if i.netns, err = c.netnsForDelegate(r.Attachment); err != nil {
		return false, err
	}
	err = c.step("del-delegate", func() error { return c.pluginRun("DEL", r.Delegate, i) })
	if err != nil && c.delegateMoot(r.Attachment, i) {
		c.log.WithError(err).Warn("the delegate's DEL failed, but there is nothing left for it to do")
		return false, nil
	}
	return err == nil, err
}

// passedOn says whether another attachment has the device of a released one.
// Hold the claim lock.
func (c *call) passedOn(released nodestate.Attachment) (bool, error) {
	records, _, err := c.dir.List()
	return slices.ContainsFunc(records, func(a nodestate.Attachment) bool {
		return a.Device.PCIAddress == released.Device.PCIAddress && a.AttachmentID != released.AttachmentID && a.State != nodestate.StateReleased
	}), err
}

// delegateMoot says whether an error of a delegate's DEL is without consequence,
// but for the addresses, which are then released without the delegate. Of a
// sharing one it is when the interface is gone, and with it all that the
// delegate has made: the kernel takes it when the device is pulled out, and vlan's
// DEL cannot go without the device. Of an exclusive one it is when the PCI
// function is gone, or the delegate is host-device, which only moves the link;
// returnLink brings that home anyway. Others, such as sriov, have set more than
// that.
func (c *call) delegateMoot(a nodestate.Attachment, i invocation) bool {
	if _, err := c.find(a.Delegate.Type, i.path); err != nil {
		return false
	}
	if a.Mode == nodestate.ModeShared {
		return !c.inPod(a)
	}
	_, err := c.sys.PCI(a.Device.PCIAddress)
	return a.Delegate.Type == "host-device" || errors.Is(err, fs.ErrNotExist)
}

// physical finds a VF's PF: its interface in the host, and the VF's number there.
// ErrNotFound when the function is no VF, or its PF is not the host's.
func (c *call) physical(fn sysfs.PCIFunction) (pf string, number int, err error) {
	if fn.PhysFn != "" {
		parent, err := c.sys.PCI(fn.PhysFn)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", 0, err
		}
		if number := slices.Index(parent.VirtFns, fn.Address); number >= 0 && len(parent.Interfaces) > 0 {
			return parent.Interfaces[0], number, nil
		}
	}
	return "", 0, fmt.Errorf("find the PF of %s: %w", fn.Address, link.ErrNotFound)
}

// assigned is what the PF has assigned to the function; nil when nobody tells.
func (c *call) assigned(fn sysfs.PCIFunction) (*nodestate.VFState, error) {
	pf, number, err := c.physical(fn)
	if err == nil {
		var vf nodestate.VFState
		if vf, err = c.host.VF(pf, number); err == nil {
			return &vf, nil
		}
	}
	if errors.Is(err, link.ErrNotFound) {
		return nil, nil
	}
	return nil, err
}

// reassign has the PF give a VF back what it had assigned before a delegate got
// it, where the delegate's DEL has not: sriov's does nothing without a netns, or
// when its ADD had not ended. The next pod would be in the last one's VLAN. It says whether the VF had been assigned another MAC.
func (c *call) reassign(a nodestate.Attachment) (otherMAC bool, err error) {
	was := a.Device.Assigned
	if was == nil || a.BootID != c.bootID {
		return false, nil
	}
	fn, err := c.sys.PCI(a.Device.PCIAddress)
	if errors.Is(err, fs.ErrNotExist) || err == nil && a.Device.Replaced(fn.Instance) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	pf, number, err := c.physical(fn)
	if errors.Is(err, link.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := c.host.VF(pf, number)
	if err != nil || now == *was {
		return false, err
	}
	c.log.WithField("device", fn.Address).Info("having the PF give the VF back what it had assigned before the delegate")
	return now.MAC != was.MAC, c.host.AssignVF(pf, number, *was)
}

// ownMAC brings the link of a VF that had been assigned another MAC to its own,
// and returns what Restore is to give it back. A VF takes the PF's MAC when it is
// reset, which taking it down does, and some take it in no other way. One to
// which the PF assigns none can be given any.
func (c *call) ownMAC(l link.Link, d nodestate.AttachedDevice) (nodestate.LinkState, error) {
	want := *d.Link
	if d.Assigned.MAC == "" {
		want.MAC = d.MAC
		return want, nil
	}
	if err := c.host.SetUp(l.Index); err != nil {
		return want, err
	}
	return want, c.host.SetDown(l.Index)
}
