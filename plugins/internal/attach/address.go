package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

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
		{"keep_addr_on_down", "1"},
		{"accept_dad", "0"},
		{"ndisc_notify", "1"}, // unsolicited neighbour advertisement
	}
)

// ipv6MTU is the least MTU, in octets, of a link with IPv6 (RFC 8200 section 5).
const ipv6MTU = 1280

// Values of the sysctl accept_ra: router advertisements are ignored, or believed even
// where the pod forwards packets.
const (
	ignoreRouters = "0"
	heedRouters   = "2"
)

// acceptRA is the interface's accept_ra; "" leaves it to the pod. A pod with fixed
// addresses gets the routes of the netconf and no others. Only router advertisements
// announce the VPC's IPv6 router, so eni-ipam with IPv6 relies on them. Without an
// address plugin the pod sets the interface up itself, SLAAC included.
func (c *call) acceptRA(addrs []netip.Prefix) string {
	switch {
	case c.cfg.ENIIPAM != nil && slices.ContainsFunc(addrs, is6):
		return heedRouters
	case c.cfg.ENIIPAM != nil || c.cfg.IPAM != nil:
		return ignoreRouters
	}
	return ""
}

func is6(p netip.Prefix) bool { return p.Addr().Is6() }

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
	if err := c.step("sysctls", func() error { return c.setSysctls(d.ns, l, addrs) }); err != nil {
		return err
	}
	for i, p := range addrs {
		if err := c.step("address", func() error { return refuseTaken("ipam", c.in.EnsureAddress(l.Index, p)) }); err != nil {
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
	return c.setRoutes(l.Index, routes)
}

func (c *call) setRoutes(index int, routes []link.Route) error {
	for _, r := range routes {
		err := c.step("route", func() error { return refuseTaken("routes", c.in.EnsureRoute(index, r)) })
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			return &refusal{code: codeUnsupported, err: err,
				msg: fmt.Sprintf("routes: gateway %s is outside the subnets of the interface's addresses; give another, or add a route to it first", r.Gateway)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refuseTaken makes a refusal of the kernel's having another address or route in the
// place of a wanted one.
func refuseTaken(key string, err error) error {
	if errors.Is(err, link.ErrRouteTaken) || errors.Is(err, link.ErrAddressTaken) {
		return &refusal{code: codeUnsupported, msg: key, err: err}
	}
	return err
}

func (c *call) setSysctls(ns *link.Netns, l link.Link, addrs []netip.Prefix) error {
	err := ns.SetSysctls(func(set func(name, value string) error) error {
		for _, s := range sysctls4 {
			if err := set("net/ipv4/conf/"+l.Name+"/"+s.name, s.value); err != nil {
				return err
			}
		}
		if err := setAcceptRA(set, l.Name, c.acceptRA(addrs)); err != nil {
			return err
		}
		if !slices.ContainsFunc(addrs, is6) {
			return nil
		}
		// A pod that had IPv6 switched off could not reach its own address without lo.
		if err := set("net/ipv6/conf/lo/disable_ipv6", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, s := range sysctls6 {
			err := set("net/ipv6/conf/"+l.Name+"/"+s.name, s.value)
			switch {
			case errors.Is(err, fs.ErrNotExist) && l.MTU < ipv6MTU:
				return refuse(codeUnsupported, "mtu %d: an IPv6 address needs at least %d octets; raise the MTU, or use IPv4 addresses only", l.MTU, ipv6MTU)
			case errors.Is(err, fs.ErrNotExist):
				return refuse(codeUnsupported, "the address plugin gave an IPv6 address, but IPv6 is disabled in this kernel; enable it, or use IPv4 addresses only")
			case err != nil:
				return err
			}
		}
		return nil
	})
	if err == nil && l.Up && c.acceptRA(addrs) == ignoreRouters { // its delegate brought it up
		err = c.in.ForgetRouters(l.Index)
	}
	return err
}

// setAcceptRA sets an interface's accept_ra, unless the value is "". An interface
// without IPv6 has none, and heeds nobody.
func setAcceptRA(set func(name, value string) error, ifname, value string) error {
	if value == "" {
		return nil
	}
	if err := set("net/ipv6/conf/"+ifname+"/accept_ra", value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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

// fillGateways gives the routes of a result that have no gateway the one that the
// kernel will have. As the reference plugins do, that is the gateway of the first
// address of their family, unless their scope says that they need none.
func fillGateways(result *types100.Result) {
	gateways := map[bool]net.IP{}
	for _, ip := range result.IPs {
		if v4 := ip.Gateway.To4() != nil; gateways[v4] == nil {
			gateways[v4] = ip.Gateway
		}
	}
	for _, r := range result.Routes {
		if len(r.GW) == 0 && (r.Scope == nil || *r.Scope == 0) {
			r.GW = gateways[r.Dst.IP.To4() != nil]
		}
	}
}

// routesOf converts a result's routes, once their gateways are filled in.
func routesOf(result *types100.Result) ([]link.Route, error) {
	fillGateways(result)
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
