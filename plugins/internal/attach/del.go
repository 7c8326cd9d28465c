package attach

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/delegation"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/giveback"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// del is CNI DEL: from the record, or without one from the netconf.
func (c *call) del(ctx context.Context) error {
	id := c.id()
	r, err := c.lockRecord(ctx, id)
	switch {
	case err == nil:
		defer r.Close()
		return c.releaser.Release(ctx, r, giveback.LockFree)
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(c.delWithoutRecord(ctx), present(c.delUnrecordedIPAM(ctx)))
	case errors.Is(err, nodestate.ErrOtherVersion):
		return c.delOtherVersion(ctx, err)
	case errors.Is(err, nodestate.ErrCorrupt): // there was a record, which must not be forgotten
		if _, _, err := c.findUnrecorded(); err != nil {
			return refusal.New(refusal.TryAgain, "the attachment's record is corrupt, and nothing else shows which device the pod has; repeat DEL: %w", err)
		}
		if err := errors.Join(c.delWithoutRecord(ctx), c.delUnrecordedIPAM(ctx)); err != nil {
			return err
		}
		return c.records.Discard(id, c.presence.BootID)
	case errors.Is(err, nodestate.ErrBusy):
		return refusal.New(refusal.TryAgain, "another ADD or DEL of container %s, interface %s is still running; repeat DEL", id.ContainerID, id.IfName)
	}
	return errors.Join(err, c.delWithoutRecord(ctx), c.delUnrecordedIPAM(ctx))
}

// present ignores a missing IPAM plugin: without it, and without a record, no ADD has succeeded.
func present(err error) error {
	if errors.Is(err, delegation.ErrNoBinary) {
		return nil
	}
	return err
}

// delOtherVersion is DEL for a record that only another version can release. After a reboot
// nothing is left to release but addresses, by the plugin that the netconf names.
func (c *call) delOtherVersion(ctx context.Context, err error) error {
	var u *nodestate.UnreadRecord
	if !errors.As(err, &u) || !u.Ended(c.presence.BootID) {
		return otherVersion(err)
	}
	c.log.WithError(err).Warn("releasing an attachment of an earlier boot by the netconf")
	if err := errors.Join(c.delWithoutRecord(ctx), present(c.delUnrecordedIPAM(ctx))); err != nil {
		return err
	}
	return c.records.Discard(c.id(), c.presence.BootID)
}

// delWithoutRecord releases leases, and the interface CNI_IFNAME if its MAC or PCI parent proves
// that it is a device that the netconf selects.
func (c *call) delWithoutRecord(ctx context.Context) error {
	leases := c.addresses.Leases
	if c.faults.paths != nil { // the record may be where the policy says
		return errors.Join(c.faults.paths, leases.GiveBackAll(ctx))
	}
	if c.faults.netconf != nil {
		return errors.Join(c.faults.netconf, leases.GiveBackAll(ctx))
	}
	var errs []error
	if a, ok, err := c.findUnrecorded(); err == nil && ok {
		errs = append(errs, c.releaser.Devices.ReturnUnrecorded(ctx, a))
	}
	if c.cfg.ENIIPAM != nil {
		errs = append(errs, leases.GiveBackAll(ctx))
	}
	return errors.Join(errs...)
}

// delUnrecordedIPAM runs DEL of the netconf's IPAM plugin, unless ADD refuses the netconf: then
// the plugin has given nothing.
func (c *call) delUnrecordedIPAM(ctx context.Context) error {
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
	return c.plugins.Run(ctx, "DEL", &nodestate.Delegation{Type: c.cfg.IPAM.Type, Config: conf}, c.plugins.Own())
}

// findUnrecorded reconstructs the attachment of the netconf's device under CNI_IFNAME in
// CNI_NETNS; false if it is not there. An error means that an interface may be that device.
func (c *call) findUnrecorded() (a nodestate.Attachment, found bool, err error) {
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
	inv, err := nodestate.ReadInventory(c.selector.Inventory)
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
		state.Name = d.InterfaceName                                 // of its altnames only the current ones are known
		state.XDP, state.Settings, state.Ethtool = 0, nil, d.Ethtool // the pod has chosen them
		state.AltNames = slices.DeleteFunc(state.AltNames, func(name string) bool { return name == state.Name })
		return nodestate.Attachment{
			AttachmentID: c.id(), BootID: c.presence.BootID, Netns: ns.Netns, Mode: nodestate.ModeExclusive,
			Device: nodestate.AttachedDevice{PCIAddress: d.PCIAddress, MAC: d.MAC, ENIID: d.ENIID, NodeENI: d.NodeENI, Link: &state},
		}, true, nil
	}
	return a, false, nil
}
