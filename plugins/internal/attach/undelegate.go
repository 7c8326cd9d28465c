package attach

import (
	"errors"
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
	err = c.steps.Do("del-delegate", func() error { return c.pluginRun("DEL", r.Delegate, i) })
	if err != nil && c.delegateMoot(r.Attachment, i) {
		c.log.WithError(err).Warn("the delegate's DEL failed, but there is nothing left for it to do")
		return false, nil
	}
	return err == nil, err
}

// passedOn says whether another attachment has, or may have, the device of a released
// one. Hold the claim lock.
func (c *call) passedOn(released nodestate.Attachment) (bool, error) {
	records, unread, err := c.dir.List()
	return unread.MayHold(c.bootID, released.Device.PCIAddress) != nil || slices.ContainsFunc(records, func(a nodestate.Attachment) bool {
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

// assigned is what the PF has assigned to the function; nil when nobody tells.
func (c *call) assigned(fn sysfs.PCIFunction) (*nodestate.VFState, error) {
	pf, number, err := link.Physical(c.sys, fn)
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

// owing is the device with the settings to restore after its pod. They include the
// PF's settings for a VF, since a delegate's DEL may not have restored them. Sriov's
// does nothing without a netns, or when its ADD had not ended.
func (c *call) owing(a nodestate.Attachment) nodestate.AttachedDevice {
	d := a.Device
	if a.BootID != c.bootID {
		d.Assigned = nil // a boot makes VFs anew
	}
	return d
}
