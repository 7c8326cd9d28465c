package attach

import (
	"context"
	"errors"
	"io/fs"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/podlink"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// check is CNI CHECK. It compares the record's interface with prevResult, since later plugins of
// the chain may have changed it.
func (c *call) check(ctx context.Context) error {
	id := c.id()
	r, err := c.lockRecord(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return refusal.New(refusal.UnknownRecord, "container %s has no attachment on interface %s; run ADD", id.ContainerID, id.IfName)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if r.State != nodestate.StateComplete {
		return refusal.New(refusal.UnknownRecord, "ADD of container %s, interface %s did not finish; run DEL, then ADD", id.ContainerID, id.IfName)
	}
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return refusal.New(refusal.InvalidNetNS, "CNI_NETNS: %w", err)
	}
	defer ns.Close()
	if r.BootID != c.presence.BootID || !ns.Same(r.Netns) {
		return refusal.New(refusal.InvalidNetNS, "CNI_NETNS: %s is not the network namespace that ADD was given; run DEL, then ADD", c.args.Netns)
	}
	prev, err := c.previous()
	if err != nil {
		return err
	}
	var errs []error
	if r.Device.Link != nil {
		errs = append(errs, podlink.Check(r.Attachment, ns, prev))
	} else if fn, err := c.presence.Sys.PCI(r.Device.PCIAddress); err != nil || !fn.UserspaceDriver() {
		errs = append(errs, refusal.New(refusal.OtherDevice, "device %s is no longer bound to a userspace driver; run DEL, then ADD", r.Device.PCIAddress))
	}
	if r.Leases != "" {
		errs = append(errs, c.addresses.Leases.In(r.Leases).Check(ctx, r.Attachment))
	}
	return errors.Join(append(errs, c.checkPlugins(ctx, r.Attachment)...)...)
}

// checkPlugins runs CHECK of the delegate, which checks its own address plugin, or of the latter.
func (c *call) checkPlugins(ctx context.Context, a nodestate.Attachment) (errs []error) {
	checked := []string{"routes"}
	if a.IPAM == nil {
		checked = append(checked, "ips")
	}
	d := a.Delegate
	if d == nil {
		d = a.IPAM
	}
	if d != nil {
		errs = append(errs, c.plugins.Check(ctx, d, c.plugins.Recorded(a), checked))
	}
	return errs
}

func (c *call) previous() (*types100.Result, error) {
	if c.cfg.PrevResult == nil {
		return nil, refusal.New(refusal.Invalid, "prevResult: is missing; CHECK needs the result of ADD")
	}
	r, err := version.NewResult(c.cfg.CNIVersion, c.cfg.PrevResult)
	if err != nil {
		return nil, refusal.New(refusal.Invalid, "prevResult: %w", err)
	}
	return cniresult.From(r)
}
