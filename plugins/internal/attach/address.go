package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
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
	cniresult.AddRoutes(result, c.cfg.Routes)
	routes, err := cniresult.Routes(result)
	if err != nil {
		return err
	}
	addrs, err := cniresult.Addresses(result)
	if err != nil {
		return err
	}
	if err := c.steps.Do("sysctls", func() error { return c.setSysctls(d.ns, l, addrs) }); err != nil {
		return err
	}
	for i, p := range addrs {
		if err := c.steps.Do("address", func() error { return refuseTaken("ipam", c.in.EnsureAddress(l.Index, p)) }); err != nil {
			return err
		}
		result.IPs[i].Interface = types100.Int(0)
	}
	up := func() error { return c.in.SetUp(l.Index) }
	if l.Up && l.Kind == kindMacvlan && l.MAC != d.link.MAC { // the delegate has brought it up, without an address
		up = func() error { return c.in.Announce(l) }
	}
	if err := c.steps.Do("up", up); err != nil {
		return err
	}
	return c.setRoutes(l.Index, routes)
}

func (c *call) setRoutes(index int, routes []link.Route) error {
	for _, r := range routes {
		err := c.steps.Do("route", func() error { return refuseTaken("routes", c.in.EnsureRoute(index, r)) })
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			return &refusal.Error{Code: refusal.Unsupported, Err: err,
				Msg: fmt.Sprintf("routes: gateway %s is outside the subnets of the interface's addresses; give another, or add a route to it first", r.Gateway)}
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
		return &refusal.Error{Code: refusal.Unsupported, Msg: key, Err: err}
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
				return refusal.New(refusal.Unsupported, "mtu %d: an IPv6 address needs at least %d octets; raise the MTU, or use IPv4 addresses only", l.MTU, ipv6MTU)
			case errors.Is(err, fs.ErrNotExist):
				return refusal.New(refusal.Unsupported, "the address plugin gave an IPv6 address, but IPv6 is disabled in this kernel; enable it, or use IPv4 addresses only")
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
