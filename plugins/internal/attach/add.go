package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/giveback"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/podlink"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// printing makes a verb that prints a result.
func printing(stdout io.Writer, add func(*call, context.Context) (*types100.Result, error)) verb {
	return func(c *call, ctx context.Context) error {
		result, err := add(c, ctx)
		if err != nil {
			return err
		}
		versioned, err := cniresult.InVersion(result, c.cfg.CNIVersion)
		if err != nil {
			return err
		}
		return versioned.PrintTo(stdout)
	}
}

// add is CNI ADD. A failed one releases its record, which undoes everything. A record that cannot
// be released remains for DEL.
func (c *call) add(ctx context.Context) (*types100.Result, error) {
	if err := c.checkAdd(); err != nil {
		return nil, err
	}
	ns, err := c.openTarget()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	c.presence.Target = ns
	in, err := ns.Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if err := c.clearOwnRecord(ctx); err != nil {
		return nil, err
	}
	pod := &podlink.Pod{Steps: c.steps, Config: c.cfg, NS: ns, In: in}
	if err := pod.CheckFree(c.args.IfName); err != nil {
		return nil, err
	}
	all, err := c.selector.Candidates()
	if err != nil {
		return nil, err
	}
	dev, err := c.holder.Take(ctx, all, ns)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	c.plugins.Intent = dev.Record
	e := &effects{Device: dev, cfg: c.cfg, args: c.args, host: c.host, steps: c.steps, pod: pod, eniIPAM: c.addresses, plugins: c.plugins}
	result, err := e.attach(ctx)
	c.steps.Wait()
	if err != nil {
		if undo := c.undo(ctx, dev.Record); undo != nil {
			err = errors.Join(err, fmt.Errorf("and undo it: %w", undo))
		}
		return nil, err
	}
	return result, nil
}

// checkAdd refuses input, without a look at the node.
func (c *call) checkAdd() error {
	if _, err := device.ParseInterfaceName(c.args.IfName); err != nil {
		return refusal.New(refusal.Environment, "CNI_IFNAME: %w", err)
	}
	if c.cfg.PrevResult != nil && !c.cfg.TakesPrevResult() {
		return refusal.New(refusal.Invalid, "prevResult: this netconf cannot continue the result of an earlier plugin; put multi-eni first in the list of plugins")
	}
	if err := c.policy.Check(c.cfg); err != nil {
		return err
	}
	if err := c.policy.CheckDeviceInfoFile(c.cfg.DeviceInfoFile, c.id()); err != nil {
		return err
	}
	return c.readRequests()
}

// undo releases a failed ADD's record, even after the verb's timeout.
func (c *call) undo(ctx context.Context, r *nodestate.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	r.Result = nil // the runtime does not get it
	return c.releaser.Release(ctx, r, giveback.LockFree)
}

// clearOwnRecord undoes an earlier, dead ADD of this attachment.
func (c *call) clearOwnRecord(ctx context.Context) error {
	id := c.id()
	r, err := c.lockRecord(ctx, id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, nodestate.ErrOtherVersion):
		return otherVersion(err)
	case errors.Is(err, nodestate.ErrCorrupt): // an intent that was not written in full, so before its first effect
		return c.records.Discard(id, c.presence.BootID)
	case errors.Is(err, nodestate.ErrBusy):
		return refusal.New(refusal.TryAgain, "another ADD or DEL of container %s, interface %s is running; try again", id.ContainerID, id.IfName)
	case err != nil:
		return err
	}
	defer r.Close()
	if r.State == nodestate.StateComplete && !c.presence.Stale(r.Attachment) {
		return refusal.New(refusal.Internal, "container %s already has %s on interface %s; run DEL before another ADD", id.ContainerID, r.Device.PCIAddress,
			id.IfName)
	}
	c.log.WithField("device", r.Device.PCIAddress).Warn("undoing an earlier ADD of this attachment that died")
	return c.releaser.Release(ctx, r, giveback.LockFree)
}

// readRequests adds the requests of CNI_ARGS to the netconf's. It refuses those that contradict
// the netconf, or that no plugin carries out.
func (c *call) readRequests() error {
	bad := func(err error) error { return refusal.New(refusal.Environment, "CNI_ARGS: %w", err) }
	if err := c.cfg.CheckArgs(c.env); err != nil {
		return bad(err)
	}
	if s := c.env["MAC"]; s != "" {
		mac, err := device.ParseMAC(s)
		if err != nil {
			return bad(err)
		}
		if c.cfg.MAC != "" && mac != c.cfg.MAC {
			return refusal.New(refusal.Environment, "CNI_ARGS: MAC=%s, but the netconf requests %s; they must be the same, so remove one", mac, c.cfg.MAC)
		}
		c.cfg.MAC = mac
	}
	for s := range strings.SplitSeq(c.env["IP"], ",") { // CNI conventions
		if s == "" {
			continue
		}
		ip, err := netconf.ParseRequestedIP(s)
		if err != nil {
			return refusal.New(refusal.Environment, "CNI_ARGS: IP: %w", err)
		}
		c.addresses.Requested = append(c.addresses.Requested, ip)
		if !slices.Contains(c.cfg.IPs, ip) {
			c.cfg.IPs = append(c.cfg.IPs, ip)
		}
	}
	return nil
}
