package attach

import (
	"errors"
	"net/netip"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// ready makes CNI STATUS of a check that says why an ADD would fail for every pod
// (CNI spec 1.1.0, section 4: code 50). Devices that pods hold are no such reason:
// they come back.
func ready(check func(*call) error) func(*call) error {
	return func(c *call) error {
		c.anyPod = true
		err := errors.Join(c.unusable, c.cfg.Refused)
		if err == nil {
			err = check(c)
		}
		if err != nil {
			return &refusal.Error{Code: refusal.NotAvailable, Msg: "not ready", Err: err}
		}
		return nil
	}
}

// ready says why an ADD of multi-eni would fail for every pod.
func (c *call) ready() error {
	if err := c.policy.Check(c.cfg); err != nil {
		return err
	}
	if err := c.devicesReady(); err != nil {
		return err
	}
	for _, d := range c.plugins() {
		if !c.since("1.1.0") { // which brought STATUS
			_, err := c.find(d.Type, c.own().path)
			return err
		}
		if err := c.pluginRun("STATUS", d, c.own()); err != nil {
			return err
		}
	}
	return nil
}

// devicesReady says why none of the devices that the netconf means can be given to a
// pod. Without a selection only ADD knows the device.
func (c *call) devicesReady() error {
	if c.cfg.ENIIPAM != nil {
		if _, err := c.inventory(); err != nil {
			return err
		}
	}
	if c.cfg.Select.Empty() && c.cfg.DeviceID == "" {
		return nil
	}
	all, err := c.candidates()
	if err != nil {
		return err
	}
	var refused []error
	for _, cand := range all {
		err := c.deviceReady(cand)
		if err == nil {
			return nil
		}
		refused = append(refused, err)
	}
	return refusal.Worst(refused)
}

// deviceReady says why a device cannot be given to a pod, whoever has it now.
func (c *call) deviceReady(cand candidate) error {
	fn, err := c.function(cand.pci)
	if err != nil {
		return err
	}
	if l, err := c.host.FindDevice(c.sys, fn, attached(cand.pci, fn, cand.row)); err == nil { // else a pod may have it
		if _, err := c.refuseRouted(cand, l); err != nil {
			return err
		}
	}
	refuse := c.refuseDelegate
	if fn.UserspaceDriver() {
		refuse = c.refuseUserspace
	}
	if err := refuse(cand.pci, fn); err != nil {
		return err
	}
	return c.addressesReady(cand)
}

// addressesReady says why no pod can have an address of an ENI by eni-ipam.
func (c *call) addressesReady(cand candidate) error {
	if c.cfg.ENIIPAM == nil {
		return nil
	}
	if cand.row == nil {
		return unknownDevice(cand.pci)
	}
	row := *cand.row
	addresses, err := c.cfg.ENIIPAM.Pick(row)
	if c.shares() && len(row.Addresses) > 0 {
		addresses, err = c.wouldLease(row)
	}
	if err == nil {
		_, err = c.cfg.ENIIPAM.ResolveRoutes(row, addresses)
	}
	if err != nil {
		return &refusal.Error{Code: refusal.TryAgain, Msg: "ipam.type " + netconf.ENIIPAMType, Err: err}
	}
	return nil
}

// wouldLease are the addresses that one more pod that shares an ENI would have.
func (c *call) wouldLease(row nodestate.Device) ([]netip.Prefix, error) {
	l, err := nodestate.LeaseDir(c.paths.LeaseDir).Read(c.bootID, row.ENIID)
	if err != nil && !nodestate.Unreadable(err) { // that ADD would rebuild
		return nil, err
	}
	now, err := nodestate.Uptime()
	if err != nil {
		return nil, err
	}
	gone := func(ns nodestate.Netns) bool { return link.Probe(ns) == link.Gone }
	return lease.Take(&l, &row, c.cfg.ENIIPAM.Request(nodestate.Lease{}), now, gone)
}

// ipamReady says why an ADD of eni-ipam would fail for every pod.
func (c *call) ipamReady() error {
	if err := c.policy.CheckIPAM(c.cfg); err != nil {
		return err
	}
	if _, err := c.inventory(); err != nil {
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
	return c.addressesReady(candidate{pci: row.PCIAddress, row: &row})
}
