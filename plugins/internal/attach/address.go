package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// sysctls of an interface that is one of several in the pod, under
// net/ipv4/conf and net/ipv6/conf (Documentation/networking/ip-sysctl.rst).
var (
	sysctls4 = []struct{ name, value string }{
		{"rp_filter", "2"},    // answers may leave by another interface
		{"arp_ignore", "1"},   // answer ARP for this interface's own addresses only
		{"arp_announce", "2"}, // and never ask in another interface's name
		{"arp_notify", "1"},   // gratuitous ARP when the link comes up
	}
	sysctls6 = []struct{ name, value string }{
		{"disable_ipv6", "0"},
		{"accept_dad", "0"},
		{"ndisc_notify", "1"}, // unsolicited neighbour advertisement
	}
)

// kindMacvlan is the kind of link that has a MAC of its own, but as passthru, and so
// must tell its neighbours whose an address is now that another pod had before.
const kindMacvlan = "macvlan"

// configure gives the interface in the container its sysctls, addresses and
// routes and brings it up, in the order that lets the kernel announce the
// addresses itself when the link comes up.
func (c *call) configure(d *claimed, l link.Link, result *types100.Result) error {
	addRoutes(result, c.cfg.Routes)
	routes, err := routesOf(result)
	if err != nil {
		return err
	}
	addrs, err := addressesOf(result)
	if err != nil {
		return err
	}
	if err := c.step("sysctls", func() error { return c.setSysctls(d.ns, l.Name, addrs) }); err != nil {
		return err
	}
	for i, p := range addrs {
		if err := c.step("address", func() error { return c.in.EnsureAddress(l.Index, p) }); err != nil {
			return err
		}
		result.IPs[i].Interface = types100.Int(0)
	}
	up := func() error { return c.in.SetUp(l.Index) }
	if l.Up && l.Kind == kindMacvlan && l.MAC != d.link.MAC { // the delegate has brought it up, without an address
		up = func() error { return c.in.Announce(l) }
	}
	if err := c.step("up", up); err != nil {
		return err
	}
	for _, r := range routes {
		if err := c.step("route", func() error { return c.in.EnsureRoute(l.Index, r) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) setSysctls(ns *link.Netns, ifname string, addrs []netip.Prefix) error {
	var v6 bool
	for _, p := range addrs {
		v6 = v6 || p.Addr().Is6()
	}
	return ns.SetSysctls(func(set func(name, value string) error) error {
		for _, s := range sysctls4 {
			if err := set("net/ipv4/conf/"+ifname+"/"+s.name, s.value); err != nil {
				return err
			}
		}
		if !v6 {
			return nil
		}
		for _, s := range sysctls6 {
			err := set("net/ipv6/conf/"+ifname+"/"+s.name, s.value)
			if errors.Is(err, fs.ErrNotExist) {
				return refuse(codeUnsupported, "the address plugin gave an IPv6 address, but this kernel has IPv6 switched off")
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// addRoutes appends the netconf's routes to those of the address plugin.
func addRoutes(result *types100.Result, routes []netconf.Route) {
	for _, r := range routes {
		out := &types.Route{Dst: *ipNet(r.Dst), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Scope: r.Scope}
		if r.Gateway.IsValid() {
			out.GW = r.Gateway.AsSlice()
		}
		if r.Table != 0 {
			table := r.Table
			out.Table = &table
		}
		result.Routes = append(result.Routes, out)
	}
}

// routesOf converts a result's routes. As the reference plugins do, a route
// without a gateway takes that of the first address of its family, unless its
// scope says that it needs none.
func routesOf(result *types100.Result) ([]link.Route, error) {
	gateways := map[bool]netip.Addr{}
	for _, ip := range result.IPs {
		if gw, ok := netip.AddrFromSlice(ip.Gateway); ok && !gateways[gw.Unmap().Is4()].IsValid() {
			gateways[gw.Unmap().Is4()] = gw.Unmap()
		}
	}
	out := make([]link.Route, 0, len(result.Routes))
	for _, r := range result.Routes {
		dst, ok := prefix(r.Dst)
		if !ok {
			return nil, fmt.Errorf("result of the address plugin: route %s: not a network", r.Dst.String())
		}
		lr := link.Route{Dst: dst.Masked(), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Scope: r.Scope}
		if r.Table != nil {
			lr.Table = *r.Table
		}
		if gw, ok := netip.AddrFromSlice(r.GW); ok {
			lr.Gateway = gw.Unmap()
		} else if r.Scope == nil || *r.Scope == 0 {
			lr.Gateway = gateways[dst.Addr().Is4()]
		}
		out = append(out, lr)
	}
	return out, nil
}

func addressesOf(result *types100.Result) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(result.IPs))
	for _, ip := range result.IPs {
		p, ok := prefix(ip.Address)
		if !ok {
			return nil, fmt.Errorf("result of the address plugin: address %s: not an address with a mask", ip.Address.String())
		}
		out = append(out, p)
	}
	return out, nil
}

func prefix(n net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(addr.Unmap(), ones)
	return p, p.IsValid()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
