// Package podlink sets up and checks the interface in a pod's network namespace.
package podlink

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

// Sysctls of one of several interfaces (Documentation/networking/ip-sysctl.rst).
var (
	sysctls4 = []struct{ name, value string }{
		{"rp_filter", "2"},    // answers may leave by another interface
		{"arp_ignore", "1"},   // answer ARP for this interface's own addresses only
		{"arp_announce", "2"}, // ask with this interface's own addresses only
		{"arp_notify", "1"},   // gratuitous ARP when the link comes up
	}
	sysctls6 = []struct{ name, value string }{
		{"disable_ipv6", "0"},
		{"keep_addr_on_down", "1"},
		{"accept_dad", "0"},
		{"ndisc_notify", "1"}, // unsolicited neighbour advertisement
	}
)

// IPv6MTU is the least MTU, in octets, of a link with IPv6 (RFC 8200 section 5).
const IPv6MTU = 1280

// Values of the sysctl accept_ra.
const (
	ignoreRouters = "0" // ignore router advertisements
	heedRouters   = "2" // accept them even if the pod forwards packets
)

const kindMacvlan = "macvlan"

// Pod is a pod's netns and the netconf of its interface. All fields are needed.
type Pod struct {
	Steps  *steps.Steps
	Config *netconf.Config
	NS     *link.Netns
	In     *link.Handle // in NS
}

// CheckFree refuses names that the container uses: the kernel would carry out only half of a move
// to such a name, and a delegate's DEL finds its interface by name.
func (p *Pod) CheckFree(names ...string) error {
	for _, n := range names {
		switch _, err := p.In.Index(n); {
		case err == nil:
			return refusal.New(refusal.Environment, "the container already has an interface %s; choose another name for one of them", n)
		case !errors.Is(err, link.ErrNotFound):
			return err
		}
	}
	return nil
}

// Configure sets sysctls and addresses, brings the interface up, so that the kernel announces the
// addresses, and adds the routes. Lower is the device's MAC. The result gets the netconf's
// routes.
func (p *Pod) Configure(l link.Link, lower device.MAC, result *types100.Result) error {
	cniresult.AddRoutes(result, p.Config.Routes)
	routes, err := cniresult.Routes(result)
	if err != nil {
		return err
	}
	addrs, err := cniresult.Addresses(result)
	if err != nil {
		return err
	}
	if err := p.Steps.Do("sysctls", func() error { return p.setSysctls(l, addrs) }); err != nil {
		return err
	}
	for i, a := range addrs {
		if err := p.Steps.Do("address", func() error { return refuseTaken("ipam", p.In.EnsureAddress(l.Index, a)) }); err != nil {
			return err
		}
		result.IPs[i].Interface = types100.Int(0)
	}
	up := func() error { return p.In.SetUp(l.Index) }
	if l.Up && l.Kind == kindMacvlan && l.MAC != lower { // up before it had an address, whose new MAC neighbours must learn
		up = func() error { return p.In.Announce(l) }
	}
	if err := p.Steps.Do("up", up); err != nil {
		return err
	}
	return p.SetRoutes(l.Index, routes)
}

// SetRoutes adds routes.
func (p *Pod) SetRoutes(index int, routes []routing.Route) error {
	for _, r := range routes {
		err := p.Steps.Do("route", func() error { return refuseTaken("routes", p.In.EnsureRoute(index, r)) })
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			return refusal.New(refusal.Unsupported,
				"routes: gateway %s is outside the subnets of the interface's addresses; give another, or add a route to it first: %w", r.Gateway, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// LimitRouters sets accept_ra of an interface that a delegate has configured.
func (p *Pod) LimitRouters(l link.Link) error {
	ra := p.acceptRA(nil)
	if ra == "" {
		return nil
	}
	return p.Steps.Do("sysctls", func() error {
		err := p.NS.SetSysctls(func(set func(name, value string) error) error { return setAcceptRA(set, l.Name, ra) })
		return errors.Join(err, p.In.ForgetRouters(l.Index))
	})
}

// SetMTU sets the MTU of an interface.
func (p *Pod) SetMTU(l *link.Link, mtu int) error {
	err := p.Steps.Do("mtu", func() error { return p.In.SetMTU(l.Index, mtu) })
	if err == nil {
		l.MTU = mtu
	}
	return err
}

// acceptRA returns the value of accept_ra; "" leaves it to a pod without an address plugin, which
// may use SLAAC. Fixed addresses come with fixed routes, but only advertisements tell the VPC's
// IPv6 router to eni-ipam.
func (p *Pod) acceptRA(addrs []netip.Prefix) string {
	switch {
	case p.Config.ENIIPAM != nil && slices.ContainsFunc(addrs, is6):
		return heedRouters
	case p.Config.ENIIPAM != nil || p.Config.IPAM != nil:
		return ignoreRouters
	}
	return ""
}

func is6(p netip.Prefix) bool { return p.Addr().Is6() }

func (p *Pod) setSysctls(l link.Link, addrs []netip.Prefix) error {
	err := p.NS.SetSysctls(func(set func(name, value string) error) error {
		for _, s := range sysctls4 {
			if err := set("net/ipv4/conf/"+l.Name+"/"+s.name, s.value); err != nil {
				return err
			}
		}
		if err := setAcceptRA(set, l.Name, p.acceptRA(addrs)); err != nil {
			return err
		}
		if !slices.ContainsFunc(addrs, is6) {
			return nil
		}
		// A pod with IPv6 disabled on lo could not reach its own address.
		if err := set("net/ipv6/conf/lo/disable_ipv6", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, s := range sysctls6 {
			err := set("net/ipv6/conf/"+l.Name+"/"+s.name, s.value)
			switch {
			case errors.Is(err, fs.ErrNotExist) && l.MTU < IPv6MTU:
				return refusal.New(refusal.Unsupported, "mtu %d: an IPv6 address needs at least %d octets; raise the MTU, or use IPv4 addresses only", l.MTU, IPv6MTU)
			case errors.Is(err, fs.ErrNotExist):
				return refusal.New(refusal.Unsupported, "the address plugin gave an IPv6 address, but IPv6 is disabled in this kernel; enable it, or use IPv4 "+
					"addresses only")
			case err != nil:
				return err
			}
		}
		return nil
	})
	if err == nil && l.Up && p.acceptRA(addrs) == ignoreRouters { // its delegate brought it up
		err = p.In.ForgetRouters(l.Index)
	}
	return err
}

// setAcceptRA sets accept_ra, unless value is "". An interface without IPv6 has none, and ignores
// advertisements.
func setAcceptRA(set func(name, value string) error, ifname, value string) error {
	if value == "" {
		return nil
	}
	if err := set("net/ipv6/conf/"+ifname+"/accept_ra", value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// refuseTaken gives a code to the error that another address or route is in the way.
func refuseTaken(key string, err error) error {
	if errors.Is(err, routing.ErrRouteTaken) || errors.Is(err, link.ErrAddressTaken) {
		return refusal.New(refusal.Unsupported, "%s: %w", key, err)
	}
	return err
}
