package attach

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/podlink"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

func (e *effects) attachDelegate(ctx context.Context) (*types100.Result, error) {
	result, err := e.runDelegate(ctx)
	if err != nil {
		return nil, err
	}
	l, err := e.findMade(result)
	if err != nil {
		return nil, err
	}
	at := cniresult.FindInterface(result, e.args.IfName)
	if at >= 0 {
		if i := result.Interfaces[at]; i.PciID == "" {
			i.PciID = e.Record.Device.PCIAddress.String()
		}
	}
	if err := e.checkMAC(l, result, at); err != nil {
		return nil, err
	}
	if err := e.setMTU(&l, result, at); err != nil {
		return nil, err
	}
	if e.Addresses != nil {
		own := e.Addresses.Result()
		result.IPs, result.Routes = own.IPs, own.Routes
	} else if err := checkIPs(e.cfg.IPs, result); err != nil {
		return nil, err
	}
	if e.Link.Index == 0 { // a userspace device: the container reads everything in the result
		cniresult.AddRoutes(result, e.cfg.Routes)
		cniresult.FillGateways(result)
	} else {
		err = e.finishDelegate(l, result, at)
	}
	if e.Addresses != nil {
		for _, ip := range result.IPs {
			if ip.Interface = nil; at >= 0 {
				ip.Interface = types100.Int(at)
			}
		}
	}
	return result, err
}

// runDelegate leases the addresses of a pod that shares the ENI, and runs the delegate.
func (e *effects) runDelegate(ctx context.Context) (*types100.Result, error) {
	if e.Leases != "" {
		err := e.steps.Do("lease", func() (err error) {
			e.Addresses, err = e.eniIPAM.Lease(ctx, e.Record.Device.ENIID, e.Netns, e.Record)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	run := e.Delegate
	if e.Addresses != nil {
		var err error
		if run, err = e.withAddresses(); err != nil {
			return nil, err
		}
	}
	var result *types100.Result
	err := e.steps.Do("delegate", func() (err error) { result, err = e.plugins.Add(ctx, run); return err })
	if err != nil && e.MTU != 0 && e.MTU < podlink.IPv6MTU && strings.Contains(err.Error(), "/ipv6/") {
		err = refusal.New(refusal.Unsupported, "mtu %d: an IPv6 address needs at least %d octets; raise the MTU, or use IPv4 addresses only: %v", e.MTU,
			podlink.IPv6MTU, err)
	}
	return result, err
}

// withAddresses returns the delegate's netconf with the addresses as prevResult. Ipvlan
// configures them; other delegates make a bare interface.
func (e *effects) withAddresses() (*nodestate.Delegation, error) {
	result := e.Addresses.Result()
	result.Routes = nil // they follow when the interface exists
	versioned, err := cniresult.InVersion(result, e.cfg.PluginVersion())
	if err != nil {
		return nil, err
	}
	prev, err := json.Marshal(versioned)
	if err != nil {
		return nil, fmt.Errorf("encode prevResult: %w", err)
	}
	conf, err := netconf.WithPrevResult(e.Delegate.Config, prev)
	return &nodestate.Delegation{Type: e.Delegate.Type, Config: conf}, err
}

// finishDelegate adds the ENI's addresses and the netconf's routes to the delegate's interface, the
// result's interface number at; -1 for none.
func (e *effects) finishDelegate(l link.Link, result *types100.Result, at int) error {
	if at < 0 {
		if e.Addresses != nil || len(e.cfg.Routes) > 0 {
			return e.noInterface()
		}
		return nil
	}
	result.Interfaces[at].Mtu = l.MTU
	if e.Addresses != nil {
		return e.pod.Configure(l, e.Link.MAC, result)
	}
	if err := e.pod.LimitRouters(l); err != nil {
		return err
	}
	theirs := len(result.Routes)
	cniresult.AddRoutes(result, e.cfg.Routes)
	routes, err := cniresult.Routes(result)
	if err != nil {
		return err
	}
	return e.pod.SetRoutes(l.Index, routes[theirs:])
}

// findMade finds the interface that a delegate reports, and describes it in the record; zero for
// none.
func (e *effects) findMade(result *types100.Result) (l link.Link, err error) {
	if e.Link.Index == 0 || cniresult.FindInterface(result, e.args.IfName) < 0 {
		return l, nil
	}
	if l, err = e.pod.In.ByName(e.args.IfName); err != nil {
		return l, fmt.Errorf("%s ADD reported success: %w", e.Delegate.Type, err)
	}
	e.Interface = &nodestate.Interface{Index: l.Index, Kind: l.Kind, Over: l.Over}
	return l, nil
}

func (e *effects) noInterface() error {
	return refusal.New(refusal.Unsupported,
		"delegate %s reports no interface %s in the container, so nothing can have addresses, routes or an MTU; remove ipam, routes and mtu",
		e.Delegate.Type, e.args.IfName)
}

// checkMAC refuses another MAC than the requested one. Without a link the result counts.
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

// setMTU sets the MTU of an interface that a delegate has moved: host-device, for one, has no key
// for it. A userspace device has its MTU only in the result.
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
