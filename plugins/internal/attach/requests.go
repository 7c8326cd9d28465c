package attach

import (
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// readRequests adds the requests of CNI_ARGS to the netconf's. It refuses a request that
// differs from the netconf's, or that no plugin carries out.
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
	for s := range strings.SplitSeq(c.env["IP"], ",") { // CNI conventions
		if s == "" {
			continue
		}
		ip, err := netconf.ParseRequestedIP(s)
		if err != nil {
			return &refusal.Error{Code: refusal.Environment, Msg: "CNI_ARGS: IP", Err: err}
		}
		c.addresses.Requested = append(c.addresses.Requested, ip)
		if !slices.Contains(c.cfg.IPs, ip) {
			c.cfg.IPs = append(c.cfg.IPs, ip)
		}
	}
	return nil
}

// checkMAC returns an error unless a delegate has given the interface the requested MAC.
// Without a link the delegate's result counts.
func (e *effects) checkMAC(l link.Link, result *types100.Result, at int) error {
	got := l.MAC
	if l.Index == 0 && at >= 0 {
		got, _ = device.ParseMAC(result.Interfaces[at].Mac) // other text differs from the requested MAC
	}
	if e.cfg.MAC == "" || got == e.cfg.MAC {
		return nil
	}
	return refusal.New(refusal.Unsupported, "MAC %s was requested, but delegate %s gave %q; remove the request, or use a delegate that gives it",
		e.cfg.MAC, e.Delegate.Type, got)
}

// checkIPs returns an error unless a result has the requested addresses.
func checkIPs(requested []netip.Addr, result *types100.Result) error {
	have, err := cniresult.Addresses(result)
	if err != nil {
		return err
	}
	for _, want := range requested {
		if !slices.ContainsFunc(have, func(p netip.Prefix) bool { return p.Addr() == want }) {
			return refusal.New(refusal.Unsupported, "address %s was requested, but the address plugin gave %v; remove the request, or use a plugin that gives it",
				want, have)
		}
	}
	return nil
}

// setMTU sets the MTU of an interface that a delegate has moved into the pod: host-device,
// for one, has no key for it. The MTU of a userspace device goes into the result only.
func (e *effects) setMTU(l *link.Link, result *types100.Result, at int) error {
	if e.Mode != nodestate.ModeDelegateExclusive || e.MTU == 0 || e.cfg.Delegate.OwnMTU() {
		return nil
	}
	switch {
	case at < 0 && e.cfg.MTU != 0:
		return e.noInterface()
	case at < 0 || e.MTU == l.MTU:
		return nil
	case l.Index == 0:
		result.Interfaces[at].Mtu = e.MTU
		return nil
	}
	return e.pod.SetMTU(l, e.MTU)
}
