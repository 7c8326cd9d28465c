package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// check is CNI CHECK. The record identifies the interface. The expected state is
// prevResult's, since later plugins of the chain may have changed it.
func (c *call) check() error {
	r, err := c.lockOwn()
	if errors.Is(err, fs.ErrNotExist) {
		return refusal.New(refusal.UnknownRecord, "container %s has no attachment on interface %s; run ADD", c.id.ContainerID, c.id.IfName)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if r.State != nodestate.StateComplete {
		return refusal.New(refusal.UnknownRecord, "ADD of container %s, interface %s did not finish; run DEL, then ADD", c.id.ContainerID, c.id.IfName)
	}
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return &refusal.Error{Code: refusal.InvalidNetNS, Msg: "CNI_NETNS", Err: err}
	}
	defer ns.Close()
	if r.BootID != c.bootID || !ns.Same(r.Netns) {
		return refusal.New(refusal.InvalidNetNS, "CNI_NETNS: %s is not the network namespace that ADD was given; run DEL, then ADD", c.args.Netns)
	}
	prev, err := c.previous()
	if err != nil {
		return err
	}
	var errs []error
	if r.Device.Link != nil {
		errs = append(errs, c.checkKernel(r.Attachment, ns, prev))
	} else if fn, err := c.sys.PCI(r.Device.PCIAddress); err != nil || !fn.UserspaceDriver() {
		errs = append(errs, refusal.New(refusal.OtherDevice, "device %s is no longer bound to a userspace driver; run DEL, then ADD", r.Device.PCIAddress))
	}
	if r.Leases != "" {
		errs = append(errs, c.checkLeases(r.Attachment))
	}
	i := c.recorded(r.Attachment)
	checked := []string{"routes"}
	if r.IPAM == nil {
		checked = append(checked, "ips")
	}
	for _, d := range []*nodestate.Delegation{r.Delegate, c.ownIPAM(r.Attachment)} {
		if d != nil {
			errs = append(errs, c.pluginCheck(d, i, checked))
		}
	}
	return errors.Join(errs...)
}

func (c *call) checkLeases(a nodestate.Attachment) error {
	result, err := cniresult.Recorded(a)
	if err != nil {
		return err
	}
	want, err := cniresult.Addresses(result)
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

// pluginCheck runs CHECK with the runtime's prevResult, which the spec demands, but for
// the keys that are checked: routes, and addresses unless an IPAM plugin wants them. The
// reference plugins look for a route, and for one to an address's subnet, in the main
// table only. Sbr moves them, and multi-eni has found them where they are.
func (c *call) pluginCheck(d *nodestate.Delegation, i invocation, checked []string) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.cfg.PrevResult, &fields); err != nil {
		return fmt.Errorf("prevResult for %s: %w", d.Type, err)
	}
	for _, key := range checked {
		delete(fields, key)
	}
	prev, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("prevResult for %s: %w", d.Type, err)
	}
	conf, err := netconf.WithPrevResult(d.Config, prev)
	if err != nil {
		return fmt.Errorf("recorded netconf of %s: %w", d.Type, err)
	}
	return c.pluginRun("CHECK", &nodestate.Delegation{Type: d.Type, Config: conf}, i)
}

// previous returns the runtime's prevResult, without which the reference plugins too
// have nothing to check.
func (c *call) previous() (*types100.Result, error) {
	if c.cfg.PrevResult == nil {
		return nil, refusal.New(refusal.Invalid, "prevResult: is missing; CHECK needs the result of ADD")
	}
	r, err := version.NewResult(c.cfg.CNIVersion, c.cfg.PrevResult)
	if err != nil {
		return nil, &refusal.Error{Code: refusal.Invalid, Msg: "prevResult", Err: err}
	}
	return cniresult.From(r)
}

func (c *call) checkKernel(a nodestate.Attachment, ns *link.Netns, prev *types100.Result) error {
	at := cniresult.FindInterface(prev, a.IfName)
	if at < 0 {
		return refusal.New(refusal.Invalid, "prevResult: interfaces has no %s in a sandbox; give the result of this container's ADD", a.IfName)
	}
	in, err := ns.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	all, err := in.Links()
	if err != nil {
		return err
	}
	l, err := ours(all, a)
	if errors.Is(err, link.ErrNotFound) || err == nil && l.Name != a.IfName {
		return refusal.New(refusal.OtherDevice, "the container no longer has the interface %s of this attachment; run DEL, then ADD", a.IfName)
	}
	if err != nil {
		return err
	}
	// Tuning and the like change a MAC and say so in their result; an MTU they change
	// without a word, so nobody can check it. A VF may get another MAC when it is reset.
	if mac := prev.Interfaces[at].Mac; mac != "" && !a.Device.VF && !strings.EqualFold(mac, l.MAC.String()) {
		return refusal.New(refusal.OtherDevice, "interface %s has MAC %s, want %s; run DEL, then ADD", l.Name, l.MAC, mac)
	}
	if !l.Up && a.Mode != nodestate.ModeShared { // the delegate checks its own
		return refusal.New(refusal.OtherDevice, "interface %s is down; set it up, or run DEL, then ADD", l.Name)
	}
	if err := checkAddresses(in, l, prev, at); err != nil {
		return err
	}
	recorded, err := cniresult.Recorded(a)
	if err != nil {
		return err
	}
	return checkRoutes(in, l, prev, recorded)
}

// checkAddresses looks for the addresses of a result that are not of another interface
// than the one at that place.
func checkAddresses(in *link.Handle, l link.Link, prev *types100.Result, at int) error {
	have, err := in.Addresses(l.Index)
	if err != nil {
		return err
	}
	addrs, err := cniresult.Addresses(prev)
	if err != nil {
		return err
	}
	for i, p := range addrs {
		if of := prev.IPs[i].Interface; of != nil && *of != at {
			continue
		}
		if !slices.Contains(have, p) {
			return refusal.New(refusal.OtherDevice, "interface %s has lost its address %s; run DEL, then ADD", l.Name, p)
		}
	}
	return nil
}

// checkRoutes looks for the routes of prevResult. A route that ADD has recorded must
// lead out of the interface. A later plugin's may lead anywhere, and without a gateway
// need not mean ours.
func checkRoutes(in *link.Handle, l link.Link, prev, recorded *types100.Result) error {
	var bare []bool
	for _, r := range prev.Routes {
		bare = append(bare, len(r.GW) == 0)
	}
	routes, err := cniresult.Routes(prev)
	if err != nil {
		return err
	}
	own, err := cniresult.Routes(recorded)
	if err != nil {
		return err
	}
	for i, r := range routes {
		index := link.Any
		if slices.ContainsFunc(own, func(o link.Route) bool { return o.Dst == r.Dst && o.Gateway == r.Gateway }) {
			index = l.Index
		}
		ok, err := in.HasRoute(index, r)
		if err == nil && !ok && bare[i] && index == link.Any {
			onLink := r
			onLink.Gateway = netip.Addr{}
			ok, err = in.HasRoute(index, onLink)
		}
		if err != nil {
			return err
		}
		if !ok {
			return refusal.New(refusal.OtherDevice, "interface %s has lost its route %s; run DEL, then ADD", l.Name, r)
		}
	}
	return nil
}
