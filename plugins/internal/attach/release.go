package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// claimLock says whether the caller of release holds the device's claim lock.
type claimLock bool

const (
	claimLockHeld claimLock = true
	claimLockFree claimLock = false
)

// release reverses every effect that the record's ADD had or may have had. It
// is idempotent, does all it can, and joins the errors; what is missing already
// counts as done. The record goes last. When only a delegate's or IPAM plugin's
// DEL has failed, the record stays as released, for the next DEL to repeat it.
func (c *call) release(r *nodestate.Record, lock claimLock) error {
	i := c.recorded(r.Attachment)
	if (r.Delegate != nil || r.IPAM != nil) && !c.alive(r.Attachment) {
		i.netns = "" // the path may lead to somebody else's netns by now
	}
	var plugins, back error
	var done bool
	if r.Delegate != nil {
		done, plugins = c.delDelegate(r, i, lock)
	}
	shares := plugins != nil && r.Mode == nodestate.ModeShared && c.inPod(r.Attachment)
	byDelegate := done && netconf.ReleasesAddresses(r.Delegate.Type)
	freed := func() error { return nil }
	if r.IPAM != nil && !byDelegate {
		freed = c.freeIPAM(r.IPAM, i)
	}
	if r.State != nodestate.StateReleased && r.Device.Link != nil && r.Mode != nodestate.ModeShared {
		back = c.steps.Do("return", func() error { return c.returnLink(r.Attachment, lock) })
	}
	plugins = errors.Join(plugins, freed())
	if r.Leases != "" && !shares && r.BootID == c.bootID {
		used := r.Result != nil
		plugins = errors.Join(plugins, c.steps.Do("del-lease", func() error { return c.giveBack(r.Leases, r.Device.ENIID, r.AttachmentID, used) }))
	}
	if r.DeviceInfoFile != "" && c.policy.CheckDeviceInfoFile(r.DeviceInfoFile, r.AttachmentID) == nil {
		if err := os.Remove(r.DeviceInfoFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			plugins = errors.Join(plugins, fmt.Errorf("remove device info: %w", err))
		}
	}
	switch {
	case back != nil || shares: // the device is not free: the record is still its claim
		return errors.Join(back, plugins)
	case plugins != nil:
		before := r.State
		r.State = nodestate.StateReleased
		if err := c.steps.Do("released", r.Save); err != nil {
			r.State = before // what the file says, and what an eviction goes by
			return errors.Join(plugins, err)
		}
		return plugins
	}
	return c.steps.Do("forget", r.Remove)
}

// freeIPAM runs an IPAM plugin's DEL; the function that it returns waits for the
// end. A plugin that may need the interface, as dhcp does, has ended before: the
// device leaves the pod next.
func (c *call) freeIPAM(d *nodestate.Delegation, i invocation) (wait func() error) {
	del := func() error { return c.pluginRun("DEL", d, i) }
	if netconf.AddressesAlone(d.Type) {
		return c.steps.Start("del-ipam", del)
	}
	err := c.steps.Do("del-ipam", del)
	return func() error { return err }
}

// openRecorded opens the attachment's netns: at its recorded path, else by what
// the runtime has named this time. ErrNotFound when it is none of these.
func (c *call) openRecorded(a nodestate.Attachment) (*link.Netns, error) {
	if a.BootID != c.bootID {
		return nil, link.ErrNotFound
	}
	paths := []string{a.Netns.Path, c.args.Netns}
	if c.target != nil { // its path may be gone since
		paths = append(paths, c.target.FDPath())
	}
	for _, path := range paths {
		ns, err := link.OpenNetns(path)
		if err != nil {
			continue
		}
		if ns.Same(a.Netns) {
			return ns, nil
		}
		ns.Close()
	}
	return nil, link.ErrNotFound
}

// lockClaim takes the device's claim lock, unless the caller has it.
func (c *call) lockClaim(pci device.PCIAddress, have claimLock) (unlock func(), err error) {
	if have == claimLockHeld {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, claimWait)
	defer cancel()
	return c.dir.LockDevice(ctx, pci)
}

// alive says whether the attachment's netns is still at its path. One of an
// earlier boot is not: cookies and inode numbers begin anew with each boot.
func (c *call) alive(a nodestate.Attachment) bool {
	return a.BootID == c.bootID && link.Probe(a.Netns) == link.Alive
}

// returnLink brings the link that the device had at ADD back to the host, and restores
// its settings. A device that is gone needs nothing. Once the link is in the host the
// device is free. A restore record stays for settings that cannot be restored now, and
// for a link that a dying netns has not given back within returnWait.
func (c *call) returnLink(a nodestate.Attachment, lock claimLock) error {
	unlock, err := c.lockClaim(a.Device.PCIAddress, lock)
	if err != nil {
		return err
	}
	defer unlock()
	owing := c.owing(a)
	l, err := c.moveBack(a)
	if errors.Is(err, link.ErrNotFound) {
		if c.replaced(a) {
			return nil // the device is gone, and its link with it
		}
		l, err = c.awaitLink(a)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the PCI function is gone, and its link with it
	case errors.Is(err, link.ErrNotFound), errors.Is(err, link.ErrOtherDevice):
		return c.leaveRestore(a.BootID, owing)
	case err != nil:
		return err
	}
	if err := c.host.GiveBack(c.sys, l, owing); err != nil {
		c.log.WithFields(map[string]any{"interface": l.Name, "wanted": owing.Link.Name, "device": owing.PCIAddress}).WithError(err).
			Warn("the device is back, but could not be given all that it had; that is tried again")
		return c.leaveRestore(a.BootID, owing)
	}
	return c.dir.Returned(owing.PCIAddress)
}

// leaveRestore leaves a restore record, unless the daemon has one of this boot for
// a device that it has taken from the kernel since: that one has more to tell.
func (c *call) leaveRestore(bootID string, d nodestate.AttachedDevice) error {
	r, err := c.dir.LoadRestore(d.PCIAddress)
	if err == nil && r.BootID == bootID && r.Driver != "" && !r.Device.Replaced(d.Instance) {
		return nil
	}
	if errors.Is(err, nodestate.ErrOtherVersion) { // nobody gets the device while that is there
		c.log.WithError(err).Warn("leaving the restore record of the device as it is")
		return nil
	}
	return c.dir.SaveRestore(nodestate.Restore{BootID: bootID, Device: d})
}

// lockOwn takes this attachment's record, waiting for a running verb.
func (c *call) lockOwn() (*nodestate.Record, error) { return c.lockRecord(c.id) }

func (c *call) lockRecord(id nodestate.AttachmentID) (*nodestate.Record, error) {
	ctx, cancel := context.WithTimeout(c.ctx, recordWait)
	defer cancel()
	return c.dir.Lock(ctx, id)
}

// del is CNI DEL: from the record, or without one from the netconf.
func (c *call) del() error {
	r, err := c.lockOwn()
	switch {
	case err == nil:
		defer r.Close()
		return c.release(r, claimLockFree)
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(c.delWithoutRecord(), present(c.delUnrecordedIPAM()))
	case errors.Is(err, nodestate.ErrOtherVersion):
		return c.delOtherVersion(err)
	case errors.Is(err, nodestate.ErrCorrupt): // there was something, which must not be forgotten
		if _, _, err := c.proveOurs(); err != nil {
			return &refusal.Error{Code: refusal.TryAgain, Msg: "the attachment's record is corrupt, and nothing else shows which device the pod has; repeat DEL", Err: err}
		}
		if err := errors.Join(c.delWithoutRecord(), c.delUnrecordedIPAM()); err != nil {
			return err
		}
		return c.dir.Discard(c.id, c.bootID)
	case errors.Is(err, nodestate.ErrBusy):
		return refusal.New(refusal.TryAgain, "another ADD or DEL of container %s, interface %s is still running; repeat DEL", c.id.ContainerID, c.id.IfName)
	}
	return errors.Join(err, c.delWithoutRecord(), c.delUnrecordedIPAM())
}

// present passes over an IPAM plugin that is not there: an ADD without it has made
// nothing, and had it gone since, there would be a record.
func present(err error) error {
	if errors.Is(err, errNoBinary) {
		return nil
	}
	return err
}

// otherVersion refuses to forget or to guess another version's work.
func otherVersion(err error) error {
	return &refusal.Error{Code: refusal.Internal, Err: err,
		Msg: "another version of multi-eni wrote the attachment's record, and only that version can release it; " +
			"install it again, or remove the file and repeat DEL, which then uses the netconf"}
}

// delOtherVersion is DEL for a record of another version. In this boot only that
// version knows the meaning of the record. Of an attachment of an earlier boot only an
// address plugin may still keep something, and the netconf names the plugin.
func (c *call) delOtherVersion(err error) error {
	var u *nodestate.UnreadRecord
	if !errors.As(err, &u) || !u.Ended(c.bootID) {
		return otherVersion(err)
	}
	c.log.WithError(err).Warn("releasing an attachment of an earlier boot by the netconf")
	if err := errors.Join(c.delWithoutRecord(), present(c.delUnrecordedIPAM())); err != nil {
		return err
	}
	return c.dir.Discard(c.id, c.bootID)
}

// delWithoutRecord releases all that the netconf identifies: leases, and the interface
// CNI_IFNAME. The MAC or PCI parent of the interface must prove that it is a device of
// the inventory that the netconf means.
func (c *call) delWithoutRecord() error {
	if c.lost != nil { // the record may be where the policy says that it is
		return errors.Join(c.lost, c.giveBackAnywhere(c.id))
	}
	if c.garbled != nil {
		return errors.Join(c.garbled, c.giveBackAnywhere(c.id))
	}
	var errs []error
	if a, ok, err := c.proveOurs(); err == nil && ok {
		errs = append(errs, c.returnUnrecorded(a))
	}
	if c.cfg.ENIIPAM != nil {
		errs = append(errs, c.giveBackAnywhere(c.id))
	}
	return errors.Join(errs...)
}

// delUnrecordedIPAM runs the DEL of the netconf's IPAM plugin, unless ADD refuses such
// a netconf, and the plugin has therefore given nothing.
func (c *call) delUnrecordedIPAM() error {
	if c.cfg.IPAM == nil || c.cfg.Refused != nil {
		return nil //nolint:nilerr // as the comment says
	}
	if err := c.policy.Check(c.cfg); err != nil {
		c.log.WithError(err).Warn("not running the address plugin")
		return nil
	}
	conf, err := c.cfg.IPAMConfig()
	if err != nil {
		return err
	}
	return c.pluginRun("DEL", &nodestate.Delegation{Type: c.cfg.IPAM.Type, Config: conf}, c.own())
}

// returnUnrecorded brings home the device of an attachment that has no record. It
// leaves a device that is at home: the pod's link then only has the same MAC. It also
// leaves it when another record has the device, or another container's record the
// netns: paths of netns are reused, so that container may have the device by now.
func (c *call) returnUnrecorded(a nodestate.Attachment) error {
	unlock, err := c.lockClaim(a.Device.PCIAddress, claimLockFree)
	if err != nil {
		return err
	}
	defer unlock()
	switch _, err := c.findDevice(a.Device); {
	case errors.Is(err, link.ErrNotFound):
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, link.ErrOtherDevice):
		return nil
	default:
		return err
	}
	records, bad, err := c.dir.List()
	if err != nil {
		return err
	}
	for _, o := range records {
		if o.AttachmentID != a.AttachmentID && o.Holds(c.bootID) &&
			(o.Device.PCIAddress == a.Device.PCIAddress || o.ContainerID != a.ContainerID && o.Netns.Same(a.Netns)) {
			c.log.WithField("device", a.Device.PCIAddress).Warnf("leaving the device to %s", holder(o))
			return nil
		}
	}
	if err := c.dir.OfOthers(bad, c.id); err != nil {
		return fmt.Errorf("bring device %s back without its record: a record that cannot be read may be its owner's: %w", a.Device.PCIAddress, err)
	}
	c.log.WithField("device", a.Device.PCIAddress).Warn("bringing the device back without its record")
	return c.returnLink(a, claimLockHeld)
}

// proveOurs looks for the netconf's device under CNI_IFNAME in CNI_NETNS, and
// describes the attachment that it must have been. An error says that there is an
// interface, of which nobody can tell whether it is ours.
func (c *call) proveOurs() (a nodestate.Attachment, ours bool, err error) {
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return a, false, nil
	}
	defer ns.Close()
	if host, err := ns.Current(); err != nil || host {
		return a, false, err
	}
	in, err := ns.Open()
	if err != nil {
		return a, false, err
	}
	defer in.Close()
	l, err := in.ByName(c.args.IfName)
	if errors.Is(err, link.ErrNotFound) {
		return a, false, nil
	}
	if err != nil {
		return a, false, err
	}
	inv, err := nodestate.ReadInventory(c.paths.Inventory)
	if err != nil {
		return a, false, err
	}
	for _, d := range inv.Devices {
		meant := !c.cfg.Select.Empty() && c.cfg.Select.Matches(d) || c.cfg.DeviceID != "" && c.cfg.DeviceID == d.PCIAddress
		its := l.Parent == d.PCIAddress && l.Parent != "" || l.Parent == "" && l.MAC == d.MAC && l.MAC != ""
		if !meant || !its || !l.Movable() || d.InterfaceName == "" {
			continue
		}
		state := l.State()
		state.Name = d.InterfaceName                                 // the altnames it has are all that is known of them
		state.XDP, state.Settings, state.Ethtool = 0, nil, d.Ethtool // it is the pod that has chosen them
		state.AltNames = slices.DeleteFunc(state.AltNames, func(name string) bool { return name == state.Name })
		return nodestate.Attachment{
			AttachmentID: c.id, BootID: c.bootID, Netns: ns.Netns, Mode: nodestate.ModeExclusive,
			Device: nodestate.AttachedDevice{PCIAddress: d.PCIAddress, MAC: d.MAC, ENIID: d.ENIID, NodeENI: d.NodeENI, Link: &state},
		}, true, nil
	}
	return a, false, nil
}
