package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
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
	if !c.alive(r.Netns) {
		i.netns = "" // the path may lead to somebody else's netns by now
	}
	var plugins, back error
	if r.Delegate != nil {
		plugins = c.step("del-delegate", func() error { return c.pluginRun("DEL", r.Delegate, i) })
		if plugins != nil && c.delegateMoot(r, i) {
			c.log.WithError(plugins).Warn("the delegate's DEL failed, but there is nothing left of the attachment")
			plugins = nil
		}
	}
	byDelegate := r.Delegate != nil && plugins == nil && netconf.ReleasesAddresses(r.Delegate.Type)
	freed := func() error { return nil }
	if r.IPAM != nil && !byDelegate {
		freed = c.meanwhile("del-ipam", func() error { return c.pluginRun("DEL", r.IPAM, i) })
	}
	if r.State != nodestate.StateReleased && r.Device.Link != nil && r.Mode != nodestate.ModeShared {
		back = c.step("return", func() error { return c.returnLink(r.Attachment, lock) })
	}
	plugins = errors.Join(plugins, freed())
	if r.DeviceInfoFile != "" {
		if err := os.Remove(r.DeviceInfoFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			plugins = errors.Join(plugins, fmt.Errorf("remove device info: %w", err))
		}
	}
	switch {
	case back != nil: // the device is not free: the record is still its claim
		return errors.Join(back, plugins)
	case plugins != nil:
		r.State = nodestate.StateReleased
		return errors.Join(plugins, c.step("released", r.Save))
	}
	return c.step("forget", r.Remove)
}

// delegateMoot says whether an error of an exclusive delegate's DEL is without
// consequence: host-device fails when the PCI device or the netns is gone, and
// the link is brought home by returnLink anyway.
func (c *call) delegateMoot(r *nodestate.Record, i invocation) bool {
	if r.Mode != nodestate.ModeDelegateExclusive {
		return false
	}
	if _, err := c.find(r.Delegate.Type, i.path); err != nil {
		return false
	}
	return true
}

// alive says whether the recorded netns is still at its path.
func (c *call) alive(ns nodestate.Netns) bool { return link.Probe(ns) == link.Alive }

// returnLink brings the device's link, which it had when it was attached, back
// to the host and gives it back what it had. A device that is gone needs nothing. A link that a dying netns has
// not given back within returnWait gets a restore record.
func (c *call) returnLink(a nodestate.Attachment, lock claimLock) error {
	if lock == claimLockFree {
		ctx, cancel := context.WithTimeout(c.ctx, claimWait)
		defer cancel()
		unlock, err := c.dir.ClaimLock(ctx, a.Device.PCIAddress)
		if err != nil {
			return err
		}
		defer unlock()
	}
	l, err := c.moveBack(a)
	if errors.Is(err, link.ErrNotFound) {
		l, err = c.awaitLink(a)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the PCI function is gone, and its link with it
	case errors.Is(err, link.ErrNotFound), errors.Is(err, link.ErrOtherDevice):
		return c.leaveRestore(a)
	case err != nil:
		return err
	}
	err = c.host.Restore(l, *a.Device.Link)
	if err == nil {
		return c.dir.RemoveRestore(a.Device.PCIAddress)
	}
	if !errors.Is(err, link.ErrNameTaken) {
		return err
	}
	c.log.WithFields(map[string]any{"interface": l.Name, "wanted": a.Device.Link.Name, "device": a.Device.PCIAddress}).
		Warn("the device is back, but its interface name is taken; it gets the name back once that is free")
	return c.leaveRestore(a)
}

func (c *call) leaveRestore(a nodestate.Attachment) error {
	return c.dir.SaveRestore(nodestate.Restore{BootID: a.BootID, Device: a.Device})
}

// moveBack moves the link out of the recorded netns and returns it as it is in
// the host; ErrNotFound when the netns is gone or does not have it. Where its
// name is taken in the host the link comes home under its fallback name.
func (c *call) moveBack(a nodestate.Attachment) (link.Link, error) {
	ns, err := link.OpenNetns(a.Netns.Path)
	if err != nil || a.BootID != c.bootID || !ns.Same(a.Netns) {
		if err == nil {
			ns.Close()
		}
		return link.Link{}, link.ErrNotFound // not there, or somebody else's: nothing to take out of it
	}
	defer ns.Close()
	in, err := ns.Open()
	if err != nil {
		return link.Link{}, err
	}
	defer in.Close()
	l, err := in.FindMoved(a.Device, a.IfName)
	if err != nil {
		return link.Link{}, err
	}
	name, err := c.homeName(a)
	if err != nil {
		return link.Link{}, err
	}
	host, err := link.CurrentNetns()
	if err != nil {
		return link.Link{}, err
	}
	defer host.Close()
	if err := in.Move(l.Index, host, name); err != nil && !errors.Is(err, link.ErrNameTaken) {
		return link.Link{}, err
	}
	return c.arrived(l, name)
}

// arrived finds a link that has just been moved to the host: under its name,
// or, when another process took that at the same moment, by its MAC.
func (c *call) arrived(l link.Link, name string) (link.Link, error) {
	home, err := c.host.ByName(name)
	if err == nil && home.MAC == l.MAC && home.Kind == l.Kind {
		return home, nil
	}
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return link.Link{}, err
	}
	found, err := c.host.ByMAC(l.MAC)
	if err != nil {
		return link.Link{}, err
	}
	for _, f := range found {
		if f.Kind == l.Kind && f.Parent == l.Parent {
			return f, nil
		}
	}
	return link.Link{}, link.ErrNotFound
}

func (c *call) homeName(a nodestate.Attachment) (string, error) {
	_, err := c.host.ByName(a.Device.Link.Name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return a.Device.Link.Name, nil
	case err != nil:
		return "", err
	}
	return link.FallbackName(a.Device.PCIAddress), nil
}

// awaitLink finds the device's link in the host, waiting for it only when the
// netns that had it is dying.
func (c *call) awaitLink(a nodestate.Attachment) (link.Link, error) {
	deadline := time.Now().Add(returnWait)
	for {
		l, err := c.host.FindDevice(c.sys, a.Device)
		if !errors.Is(err, link.ErrNotFound) || c.alive(a.Netns) || time.Now().After(deadline) {
			return l, err
		}
		select {
		case <-c.ctx.Done():
			return l, err
		case <-time.After(returnPoll):
		}
	}
}

// returnPoll is how often awaitLink looks.
const returnPoll = 20 * time.Millisecond

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
		return c.delWithoutRecord()
	case errors.Is(err, nodestate.ErrCorrupt):
		if err := c.delWithoutRecord(); err != nil {
			return err
		}
		return c.dir.Discard(c.id)
	case errors.Is(err, nodestate.ErrBusy):
		return refuse(codeTryAgain, "ADD of container %s, interface %s is still running", c.id.ContainerID, c.id.IfName)
	}
	return errors.Join(err, c.delWithoutRecord())
}

// delWithoutRecord releases what can be told from the netconf: the address, and
// the interface CNI_IFNAME when its MAC or PCI parent proves that it is a device
// of the inventory that the netconf means.
func (c *call) delWithoutRecord() error {
	var errs []error
	if a, ok := c.proveOurs(); ok {
		c.log.WithField("device", a.Device.PCIAddress).Warn("bringing the device back without its record")
		errs = append(errs, c.returnLink(a, claimLockFree))
	}
	if c.cfg.IPAM != nil && c.policy.Check(c.cfg) == nil {
		d := &nodestate.Delegation{Type: c.cfg.IPAM.Type, Config: c.cfg.IPAMConfig()}
		errs = append(errs, c.pluginRun("DEL", d, c.own()))
	}
	return errors.Join(errs...)
}

// proveOurs looks for the netconf's device under CNI_IFNAME in CNI_NETNS, and
// describes the attachment that it must have been.
func (c *call) proveOurs() (nodestate.Attachment, bool) {
	inv, err := nodestate.ReadInventory(c.paths.Inventory)
	if err != nil || c.args.Netns == "" {
		return nodestate.Attachment{}, false
	}
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return nodestate.Attachment{}, false
	}
	defer ns.Close()
	host, err := link.CurrentNetns()
	if err != nil {
		return nodestate.Attachment{}, false
	}
	defer host.Close()
	in, err := ns.Open()
	if err != nil || ns.Same(host.Netns) {
		return nodestate.Attachment{}, false
	}
	defer in.Close()
	l, err := in.ByName(c.args.IfName)
	if err != nil {
		return nodestate.Attachment{}, false
	}
	for _, d := range inv.Devices {
		meant := !c.cfg.Select.Empty() && c.cfg.Select.Matches(d) || c.cfg.DeviceID != "" && c.cfg.DeviceID == d.PCIAddress
		ours := l.Parent == d.PCIAddress && l.Parent != "" || l.Parent == "" && l.MAC == d.MAC && l.MAC != ""
		if !meant || !ours || !l.Movable() || d.InterfaceName == "" {
			continue
		}
		state := l.State()
		state.Name, state.AltNames = d.InterfaceName, nil
		return nodestate.Attachment{
			AttachmentID: c.id, BootID: c.bootID, Netns: ns.Netns, Mode: nodestate.ModeExclusive,
			Device: nodestate.AttachedDevice{PCIAddress: d.PCIAddress, MAC: d.MAC, ENIID: d.ENIID, NodeENI: d.NodeENI, Link: &state},
		}, true
	}
	return nodestate.Attachment{}, false
}
