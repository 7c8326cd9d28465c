package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// check is CNI CHECK: the record, the kernel and the delegate must agree.
func (c *call) check() error {
	r, err := c.lockOwn()
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(codeUnknownRecord, "container %s has no attachment on interface %s; run ADD", c.id.ContainerID, c.id.IfName)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if r.State != nodestate.StateComplete {
		return refuse(codeUnknownRecord, "ADD of container %s, interface %s did not finish; run DEL, then ADD", c.id.ContainerID, c.id.IfName)
	}
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return &refusal{code: codeInvalidNetNS, msg: "CNI_NETNS", err: err}
	}
	defer ns.Close()
	if r.BootID != c.bootID || !ns.Same(r.Netns) {
		return refuse(codeInvalidNetNS, "CNI_NETNS: %s is not the network namespace that ADD was given; run DEL, then ADD", c.args.Netns)
	}
	var errs []error
	if r.Device.Link != nil {
		errs = append(errs, c.checkKernel(r.Attachment, ns))
	} else if fn, err := c.sys.PCI(r.Device.PCIAddress); err != nil || !fn.UserspaceDriver() {
		errs = append(errs, refuse(codeOtherDevice, "device %s is no longer bound to a userspace driver", r.Device.PCIAddress))
	}
	if r.Leases != "" {
		errs = append(errs, c.checkLeases(r.Attachment))
	}
	i := c.recorded(r.Attachment)
	for _, d := range []*nodestate.Delegation{r.Delegate, c.ownIPAM(r.Attachment)} {
		if d != nil {
			errs = append(errs, c.pluginCheck(d, i))
		}
	}
	return errors.Join(errs...)
}

func (c *call) checkLeases(a nodestate.Attachment) error {
	var result types100.Result
	if err := json.Unmarshal(a.Result, &result); err != nil {
		return fmt.Errorf("recorded result: %w", err)
	}
	want, err := addressesOf(&result)
	if err != nil {
		return err
	}
	return c.checkLease(a.Leases, a.Device.ENIID, a.AttachmentID, want)
}

// ownIPAM is the address plugin that multi-eni itself has called: a delegate
// checks its own.
func (c *call) ownIPAM(a nodestate.Attachment) *nodestate.Delegation {
	if a.Delegate != nil {
		return nil
	}
	return a.IPAM
}

// pluginCheck runs CHECK with the runtime's prevResult, which the spec demands.
func (c *call) pluginCheck(d *nodestate.Delegation, i invocation) error {
	conf, err := netconf.WithPrevResult(d.Config, c.cfg.PrevResult)
	if err != nil {
		return fmt.Errorf("recorded netconf of %s: %w", d.Type, err)
	}
	return c.pluginRun("CHECK", &nodestate.Delegation{Type: d.Type, Config: conf}, i)
}

func (c *call) checkKernel(a nodestate.Attachment, ns *link.Netns) error {
	var want types100.Result
	if err := json.Unmarshal(a.Result, &want); err != nil {
		return fmt.Errorf("recorded result: %w", err)
	}
	in, err := ns.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	l, err := in.ByName(a.IfName)
	if errors.Is(err, link.ErrNotFound) {
		return refuse(codeOtherDevice, "the container has no interface %s any more", a.IfName)
	}
	if err != nil {
		return err
	}
	if a.Mode == nodestate.ModeShared { // the delegate knows what it made
		return c.checkRoutes(in, l, want)
	}
	if !a.Device.VF && l.MAC != a.Device.MAC {
		return refuse(codeOtherDevice, "interface %s has MAC %s, want %s", l.Name, l.MAC, a.Device.MAC)
	}
	if !l.Up {
		return refuse(codeOtherDevice, "interface %s is down", l.Name)
	}
	for _, i := range want.Interfaces {
		if i.Name == l.Name && i.Mtu != 0 && i.Mtu != l.MTU {
			return refuse(codeOtherDevice, "interface %s has MTU %d, want %d", l.Name, l.MTU, i.Mtu)
		}
	}
	return c.checkRoutes(in, l, want)
}

func (c *call) checkRoutes(in *link.Handle, l link.Link, want types100.Result) error {
	have, err := in.Addresses(l.Index)
	if err != nil {
		return err
	}
	addrs, err := addressesOf(&want)
	if err != nil {
		return err
	}
	for _, p := range addrs {
		if !slices.Contains(have, p) {
			return refuse(codeOtherDevice, "interface %s has lost its address %s", l.Name, p)
		}
	}
	routes, err := routesOf(&want)
	if err != nil {
		return err
	}
	for _, r := range routes {
		ok, err := in.HasRoute(l.Index, r)
		if err != nil {
			return err
		}
		if !ok {
			return refuse(codeOtherDevice, "interface %s has lost its route %s", l.Name, r)
		}
	}
	return nil
}

// status is CNI STATUS: can an ADD work now?
func (c *call) status() error {
	unready := func(err error) error { return &refusal{code: codeNotAvailable, msg: "not ready", err: err} }
	if !c.cfg.Select.Empty() || c.cfg.ENIIPAM != nil {
		if _, err := c.inventory(); err != nil {
			return unready(err)
		}
	}
	for _, d := range c.plugins() {
		if err := c.pluginRun("STATUS", d, c.own()); err != nil {
			return unready(err)
		}
	}
	return nil
}

// plugins returns the netconf's delegate and address plugin, as STATUS and GC
// call them: without a device. None of a netconf that ADD would refuse.
func (c *call) plugins() []*nodestate.Delegation {
	var out []*nodestate.Delegation
	if c.cfg.Refused != nil || c.policy.Check(c.cfg) != nil {
		return nil
	}
	if c.cfg.Delegate != nil {
		if conf, err := c.cfg.DelegateConfig("", "", 0); err == nil {
			out = append(out, &nodestate.Delegation{Type: c.cfg.Delegate.Type, Config: conf})
		}
	}
	if c.cfg.IPAM != nil {
		if conf, err := c.cfg.IPAMConfig(); err == nil {
			out = append(out, &nodestate.Delegation{Type: c.cfg.IPAM.Type, Config: conf})
		}
	}
	return out
}

// gc is CNI GC: the attachments of this network that the runtime no longer
// knows get the full release. Without the runtime's list only those whose netns
// is certainly gone do.
func (c *call) gc() error {
	records, bad, err := c.dir.List()
	if err != nil {
		return err
	}
	for _, err := range bad {
		c.log.WithError(err).Warn("leaving a record that cannot be read")
	}
	errs := []error{c.lost} // there may be more where the policy says
	for _, a := range records {
		if a.Network == c.cfg.Name && c.cfg.Name != "" && c.collectable(a) {
			errs = append(errs, c.collect(a))
		}
	}
	errs = append(errs, c.collectLeases())
	for _, d := range c.plugins() {
		errs = append(errs, c.pluginRun("GC", d, c.own()))
	}
	return errors.Join(errs...)
}

func (c *call) collectable(a nodestate.Attachment) bool {
	if c.cfg.ValidAttachments == nil {
		return c.stale(a)
	}
	return !slices.Contains(c.cfg.ValidAttachments, a.AttachmentID)
}

func (c *call) collect(a nodestate.Attachment) error {
	r, err := c.lockRecord(a.AttachmentID)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, nodestate.ErrBusy):
		return nil // its DEL has come, or its ADD is running
	case err != nil:
		return err
	}
	defer r.Close()
	if err := c.release(r, claimLockFree); err != nil {
		return fmt.Errorf("collect %s: %w", r.AttachmentID, err)
	}
	return nil
}
