package attach

import (
	"context"
	"errors"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
)

// ready makes CNI STATUS of a check of whether every ADD would fail (CNI spec 1.1.0, section 4:
// code 50). Devices that pods hold do not count, since they return.
func ready(check verb) verb {
	return func(c *call, ctx context.Context) error {
		c.selector.AnyPod = true
		err := errors.Join(c.faults.policy, c.cfg.Refused)
		if err == nil {
			err = check(c, ctx)
		}
		if err != nil {
			return refusal.New(refusal.NotAvailable, "not ready: %w", err)
		}
		return nil
	}
}

func (c *call) ready(ctx context.Context) error {
	if err := c.policy.Check(c.cfg); err != nil {
		return err
	}
	if err := c.devicesReady(); err != nil {
		return err
	}
	for _, d := range c.plugins.Plugins() {
		if !c.since("1.1.0") { // which introduced STATUS
			_, err := c.plugins.Find(d.Type, c.plugins.Own())
			return err
		}
		if err := c.plugins.Run(ctx, "STATUS", d, c.plugins.Own()); err != nil {
			return err
		}
	}
	return nil
}

// devicesReady returns an error if no pod can get a selected device. Without a selection only ADD
// knows the device.
func (c *call) devicesReady() error {
	if c.cfg.ENIIPAM != nil {
		if _, err := selection.ReadInventory(c.selector.Inventory, c.selector.BootID); err != nil {
			return err
		}
	}
	if c.cfg.Select.Empty() && c.cfg.DeviceID == "" {
		return nil
	}
	all, err := c.selector.Candidates()
	if err != nil {
		return err
	}
	var refused []error
	for _, cand := range all {
		err := c.holder.Fit.Check(cand)
		if err == nil {
			err = c.addresses.Ready(cand.PCI, cand.Row)
		}
		if err == nil {
			return nil
		}
		refused = append(refused, err)
	}
	return refusal.Worst(refused)
}

func (c *call) ipamReady(context.Context) error {
	if err := c.policy.CheckIPAM(c.cfg); err != nil {
		return err
	}
	if _, err := selection.ReadInventory(c.selector.Inventory, c.selector.BootID); err != nil {
		return err
	}
	if c.cfg.Select.Empty() && c.cfg.DeviceID == "" {
		l, err := c.host.ByName(c.cfg.Interface)
		if errors.Is(err, link.ErrNotFound) { // a pod may have it
			return nil
		}
		if err != nil {
			return err
		}
		c.cfg.Select.MAC = l.MAC
	}
	row, err := c.namedRow()
	if err != nil {
		return err
	}
	return c.addresses.Ready(row.PCIAddress, &row)
}
