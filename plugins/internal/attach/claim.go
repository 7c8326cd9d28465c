package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// claimed is a device that is this attachment's: its record is written.
type claimed struct {
	*nodestate.Record
	row  *nodestate.Device
	fn   sysfs.PCIFunction
	link link.Link // zero without a netdev
	// routed: the link has default routes that the node does not need.
	routed bool
	// own are the ENI's addresses that the pod gets; nil without eni-ipam, and for a
	// pod that shares the ENI until it has leased them.
	own *ownAddresses
	ns  *link.Netns
}

// claim takes the first candidate that is free and is what it should be.
func (c *call) claim(all []candidate, ns *link.Netns) (*claimed, error) {
	var refused []error
	for _, cand := range all {
		got, err := c.claimOne(cand, ns)
		if err == nil {
			return got, nil
		}
		refused = append(refused, err)
	}
	return nil, refusal.Worst(refused)
}

// errUntidy is returned where a claim that is made beside others would first have
// to put something right, which only one who is alone may do.
var errUntidy = errors.New("something is to be put right first")

// claimOne decides under the device's lock. Most devices of a busy node are
// held for long, so that is looked at first without the lock. Pods that share a
// device are no business of each other's: they claim it side by side.
func (c *call) claimOne(cand candidate, ns *link.Netns) (*claimed, error) {
	records, unread, err := c.dir.List()
	if err != nil {
		return nil, err
	}
	if err := c.heldForGood(cand.pci, records); err != nil {
		return nil, err
	}
	if err := c.heldUnread(cand.pci, unread); err != nil {
		return nil, err
	}
	if c.shares() {
		got, err := c.claimUnder(c.dir.ShareDevice, false, cand, ns)
		if !errors.Is(err, errUntidy) {
			return got, err
		}
	}
	return c.claimUnder(c.dir.LockDevice, true, cand, ns)
}

// claimUnder claims a device under a lock. Alone, it puts right first what dead
// attachments have left; else that is errUntidy.
func (c *call) claimUnder(lock func(context.Context, device.PCIAddress) (func(), error), alone bool, cand candidate, ns *link.Netns) (*claimed, error) {
	ctx, cancel := context.WithTimeout(c.ctx, claimWait)
	defer cancel()
	unlock, err := lock(ctx, cand.pci)
	if errors.Is(err, nodestate.ErrBusy) {
		return nil, busyDevice(cand.pci)
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.evict(cand.pci, alone); err != nil {
		return nil, err
	}
	got, err := c.confirm(cand, alone)
	if err != nil {
		return nil, err
	}
	if err := c.refuseMAC(got); err != nil {
		return nil, err
	}
	if err := c.findPlugins(); err != nil {
		return nil, err
	}
	if got.routed && c.shares() {
		if err := c.clearRoutes(cand, got.link, alone); err != nil {
			return nil, err
		}
	}
	got.ns = ns
	got.Record, err = c.begin(got, cand)
	return got, err
}

// heldForGood refuses a device that a live, complete attachment excludes.
func (c *call) heldForGood(pci device.PCIAddress, records []nodestate.Attachment) error {
	for _, a := range records {
		if a.Device.PCIAddress == pci && a.State == nodestate.StateComplete && c.excludes(a) && !c.stale(a) {
			return c.held(a)
		}
	}
	return nil
}

// heldUnread refuses a device that an attachment may have whose record cannot be
// understood: nobody knows which claims go with it. A file that others may have written
// claims nothing: they could lock up any device by it.
func (c *call) heldUnread(pci device.PCIAddress, unread nodestate.Unread) error {
	u := unread.Trusted().MayHold(c.bootID, pci)
	if u == nil {
		return nil
	}
	return &refusal.Error{Code: refusal.Held, Err: u,
		Msg: fmt.Sprintf("device %s counts as held, because an attachment record that may name it cannot be read; %s", pci, u.Remedy())}
}

// held refuses the device of a live attachment and says when it will be free.
func (c *call) held(a nodestate.Attachment) error {
	what := "it becomes free when that pod ends"
	switch {
	case a.ContainerID == c.id.ContainerID:
		what = "two of its network attachments select the same device; select another device in one, or remove one"
	case c.restarted(a):
		what = "it becomes free when the runtime removes that sandbox"
	case !a.Mode.Exclusive():
		what = "that pod shares the device, but this attachment must own it; select another device, or use a delegate that shares"
	}
	return heldError(a.Device.PCIAddress, what, c.who(a))
}

// restarted says whether an attachment is of an earlier sandbox of this call's pod.
func (c *call) restarted(a nodestate.Attachment) bool {
	return a.ContainerID != c.id.ContainerID && a.Pod != "" && a.Pod == c.pod()
}

// who names an attachment's pod, for a message to this call's pod.
func (c *call) who(a nodestate.Attachment) string {
	switch {
	case a.ContainerID == c.id.ContainerID:
		return fmt.Sprintf("this pod already, as interface %s", a.IfName)
	case c.restarted(a):
		return fmt.Sprintf("this pod's earlier sandbox (container %s, interface %s)", a.ContainerID, a.IfName)
	}
	return holder(a)
}

// excludes says whether an attachment of the same device and this call's
// exclude each other: one exclusive pod or any number of sharing ones.
func (c *call) excludes(a nodestate.Attachment) bool {
	return a.State != nodestate.StateReleased && (a.Mode.Exclusive() || !c.shares())
}

// stale says whether an attachment's netns, or its device, certainly no longer
// exists.
func (c *call) stale(a nodestate.Attachment) bool {
	return a.BootID != c.bootID || link.Probe(a.Netns) == link.Gone || c.replaced(a)
}

// replaced says whether another device has been plugged in at the PCI address of
// an attachment whose device was pulled out while its pod had it.
func (c *call) replaced(a nodestate.Attachment) bool {
	fn, err := c.sys.PCI(a.Device.PCIAddress)
	if err != nil {
		return false
	}
	if a.Device.Replaced(fn.Instance) {
		return true
	}
	if a.Mode != nodestate.ModeExclusive && a.Mode != nodestate.ModeDelegateExclusive || a.Device.Link == nil {
		return false
	}
	_, err = c.host.FindDevice(c.sys, fn, a.Device)
	return errors.Is(err, link.ErrOtherDevice)
}

// evict runs, under the claim lock, the release of every dead attachment of the
// device that excludes this call, and refuses when a live one does. Error, unless
// alone: errUntidy.
func (c *call) evict(pci device.PCIAddress, alone bool) error {
	records, unread, err := c.dir.List()
	if err != nil {
		return err
	}
	if err := c.heldUnread(pci, unread); err != nil {
		return err
	}
	if err := c.agree(pci, records, alone); err != nil {
		return err
	}
	for _, a := range records {
		if a.Device.PCIAddress != pci || !c.excludes(a) {
			continue
		}
		if !c.stale(a) && a.State == nodestate.StateComplete {
			return c.held(a)
		}
		if !alone {
			return errUntidy
		}
		if err := c.evictOne(a); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) evictOne(a nodestate.Attachment) error {
	now, cancel := context.WithCancel(c.ctx)
	cancel() // do not wait: its holder may be waiting for our claim lock
	r, err := c.dir.Lock(now, a.AttachmentID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, nodestate.ErrBusy): // its ADD or DEL is running
		return c.held(a)
	case err != nil:
		return err
	}
	defer r.Close()
	if r.State == nodestate.StateComplete && !c.stale(r.Attachment) {
		return c.held(r.Attachment) // completed between the two looks
	}
	c.log.WithField("record", r.AttachmentID.String()).WithField("device", r.Device.PCIAddress).
		Warn("releasing the device from an attachment that died without DEL")
	if err := c.release(r, claimLockHeld); err != nil && r.State != nodestate.StateReleased {
		return fmt.Errorf("release the dead attachment %s: %w", r.AttachmentID, err)
	}
	return nil
}

// confirm compares a candidate with sysfs and the kernel before anything is
// touched. Hold its claim lock. Error, unless alone: errUntidy.
func (c *call) confirm(cand candidate, alone bool) (*claimed, error) {
	fn, err := c.function(cand.pci)
	if err != nil {
		return nil, err
	}
	if err := c.refuseLeased(cand); err != nil {
		return nil, err
	}
	got := &claimed{row: cand.row, fn: fn}
	if got.own, err = c.pickOwn(cand); err != nil {
		return nil, err
	}
	if fn.UserspaceDriver() {
		return got, c.refuseUserspace(cand.pci, fn)
	}
	if got.link, err = c.confirmLink(cand, fn, alone); err != nil {
		return nil, err
	}
	if err := c.refuseDelegate(cand.pci, fn); err != nil {
		return nil, err
	}
	got.routed, err = c.refuseRouted(cand, got.link)
	return got, err
}

// function is a device's PCI function, if it can be a pod's.
func (c *call) function(pci device.PCIAddress) (fn sysfs.PCIFunction, err error) {
	fn, err = c.sys.PCI(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = refusal.New(refusal.OtherDevice, "device %s is gone: there is no such PCI function; attach the ENI again, or select another device", pci)
	case err != nil:
	case fn.IsEFA():
		err = refusal.New(refusal.Unsupported, "device %s is an Elastic Fabric Adapter, which CNI cannot give to a pod; select an ENI", pci)
	case len(fn.VirtFns) > 0 && !c.shares():
		err = refusal.New(refusal.Unsupported,
			"device %s is a physical function, and its %d virtual functions would stop working; select one of these, or write 0 to its sriov_numvfs first",
			pci, len(fn.VirtFns))
	}
	return fn, err
}

func (c *call) refuseUserspace(pci device.PCIAddress, fn sysfs.PCIFunction) error {
	d := c.cfg.Delegate
	if d != nil && (d.Shared || d.NeedsLink()) {
		return refusal.New(refusal.Unsupported, "delegate %s needs a kernel interface, but device %s is bound to %s; leave the delegate out, or select a kernel device",
			d.Type, pci, fn.Driver)
	}
	return c.refuseDelegate(pci, fn)
}

// refuseDelegate knows what cannot work on a device, and why.
func (c *call) refuseDelegate(pci device.PCIAddress, fn sysfs.PCIFunction) error {
	d := c.cfg.Delegate
	switch {
	case d == nil:
		return nil
	case d.Type == "macvlan" && fn.Driver == "ena" && !d.Passthru():
		return refusal.New(refusal.Unsupported, "delegate macvlan gives each pod its own MAC address, and the VPC drops its packets on device %s (driver ena); "+
			`use ipvlan, or "mode":"passthru"`, pci)
	case d.Type == "sriov" && fn.PhysFn == "":
		return refusal.New(refusal.Unsupported, "delegate sriov needs a virtual function, and device %s has no physfn; use host-device or no delegate", pci)
	}
	return nil
}

// confirmLink finds the candidate's link in the host, mending first what a
// dying netns left of it. Error, unless alone: errUntidy.
func (c *call) confirmLink(cand candidate, fn sysfs.PCIFunction, alone bool) (link.Link, error) {
	d := attached(cand.pci, fn, cand.row)
	l, err := c.host.FindDevice(c.sys, fn, d)
	switch {
	case errors.Is(err, link.ErrOtherDevice):
		return l, &refusal.Error{Code: refusal.OtherDevice, Msg: fmt.Sprintf("device %s does not match the inventory; multi-enid updates it, so try again", cand.pci), Err: err}
	case errors.Is(err, link.ErrNotFound):
		return l, refusal.New(refusal.OtherDevice, "device %s has no interface in the host (driver %q); "+
			"bind its kernel driver, or bring back the interface that something else moved", cand.pci, fn.Driver)
	case err != nil:
		return l, err
	}
	if !alone {
		if _, err := c.dir.LoadRestore(cand.pci); !errors.Is(err, fs.ErrNotExist) {
			return l, errUntidy
		}
		return l, nil
	}
	restored, err := c.host.RestorePending(c.dir, c.sys, cand.pci, l)
	if errors.Is(err, nodestate.ErrOtherVersion) {
		return l, &refusal.Error{Code: refusal.Held, Err: err, Msg: fmt.Sprintf(
			"device %s counts as held, because another version of multi-eni wrote its restore record; "+
				"install that version again, or remove the file if the device needs nothing restored", cand.pci)}
	}
	if errors.Is(err, link.ErrUnfit) {
		return l, &refusal.Error{Code: refusal.TryAgain, Err: err,
			Msg: fmt.Sprintf("device %s (%s) keeps settings of an earlier pod that cannot be removed yet; "+
				"each ADD and the daemon try again; if it lasts, detach and attach the ENI", cand.pci, l.Name),
		}
	}
	if err != nil || !restored {
		return l, err
	}
	return c.findDevice(d)
}

func busyDevice(pci device.PCIAddress) error {
	return refusal.New(refusal.TryAgain, "device %s has been locked by other ADDs or DELs for more than %s; try again", pci, claimWait)
}

// unknownDevice refuses addresses of a device that the inventory does not have.
func unknownDevice(pci device.PCIAddress) error {
	return refusal.New(refusal.TryAgain, "ipam.type %s: the inventory has no device %s, so its addresses are not known; "+
		"see that multi-enid runs and that a NodeENI declares it", netconf.ENIIPAMType, pci)
}

// heldError names who has the device.
func heldError(pci device.PCIAddress, what, holder string) error {
	return refusal.New(refusal.Held, "device %s is held by %s; %s", pci, holder, what)
}
