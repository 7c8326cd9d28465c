package attach

import (
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// readRequests adds the requests of CNI_ARGS to the netconf's. It refuses a request
// that differs from the netconf's, or that nobody carries out.
func (c *call) readRequests() error {
	bad := func(err error) error { return &refusal.Error{Code: refusal.Environment, Msg: "CNI_ARGS", Err: err} }
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
	ips, err := c.requestedIPs()
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if !slices.Contains(c.cfg.IPs, ip) {
			c.cfg.IPs = append(c.cfg.IPs, ip)
		}
	}
	return nil
}

// refuseMAC refuses a MAC that the pod's interface will not have, or could not
// receive by.
func (c *call) refuseMAC(d *claimed) error {
	own := d.link.MAC
	if d.link.Index == 0 && d.row != nil {
		own = d.row.MAC
	}
	want, by := c.cfg.MAC, c.cfg.Delegate
	switch {
	case want == "" || want == own:
		return nil
	case by == nil || d.fn.Driver == "ena":
		return refusal.New(refusal.Unsupported, "MAC %s was requested, but device %s has %s, and the VPC delivers to no other; remove the request", want, d.fn.Address, own)
	case !by.TakesMAC():
		return refusal.New(refusal.Unsupported, "MAC %s was requested, but delegate %s keeps the MAC of the device, %s; remove the request", want, by.Type, own)
	}
	return nil
}

// gotMAC says whether a delegate has given the interface the MAC that was asked for:
// by the kernel, or by the delegate's word where the container has no link.
func (c *call) gotMAC(d *claimed, l link.Link, result *types100.Result, at int) error {
	var got device.MAC
	if got = l.MAC; l.Index == 0 && at >= 0 {
		got, _ = device.ParseMAC(result.Interfaces[at].Mac) // text that is no MAC differs from the wanted one
	}
	if c.cfg.MAC == "" || got == c.cfg.MAC {
		return nil
	}
	return refusal.New(refusal.Unsupported, "MAC %s was requested, but delegate %s gave %q; remove the request, or use a delegate that gives it",
		c.cfg.MAC, d.Delegate.Type, got)
}

// gotAddresses says whether the addresses that were asked for are in a result.
func (c *call) gotAddresses(result *types100.Result) error {
	have, err := cniresult.Addresses(result)
	if err != nil {
		return err
	}
	for _, want := range c.cfg.IPs {
		if !slices.ContainsFunc(have, func(p netip.Prefix) bool { return p.Addr() == want }) {
			return refusal.New(refusal.Unsupported, "address %s was requested, but the address plugin gave %v; remove the request, or use a plugin that gives it", want, have)
		}
	}
	return nil
}

// setMTU gives an interface that a delegate has put into the pod the MTU that
// delegates do not: host-device, for one, has no key for it. Of a userspace device the
// container reads it in the result.
func (c *call) setMTU(d *claimed, l *link.Link, result *types100.Result, at int) error {
	mtu := c.mtu(d.row)
	if d.Mode != nodestate.ModeDelegateExclusive || mtu == 0 || c.cfg.Delegate.OwnMTU() {
		return nil
	}
	switch {
	case at < 0 && c.cfg.MTU != 0:
		return noInterface(d.Delegate.Type, c.args.IfName)
	case at < 0 || mtu == l.MTU:
		return nil
	case l.Index == 0:
		result.Interfaces[at].Mtu = mtu
		return nil
	}
	err := c.steps.Do("mtu", func() error { return c.in.SetMTU(l.Index, mtu) })
	if err == nil {
		l.MTU = mtu
	}
	return err
}
