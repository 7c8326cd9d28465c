package routing

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
)

// Clutter holds the routes of the main table and the addresses that network managers and
// router advertisements may have put on links.
type Clutter struct {
	Defaults DefaultRoutes
	// Learned are the main table's routes of protocol ra and dhcp, default routes too.
	Learned []LearnedRoute
	// Addresses are the addresses of all links, except loopback and IPv6 link-local ones.
	Addresses []HostAddress
}

// LearnedRoute is a route of one next hop.
type LearnedRoute struct {
	// Index is the link's, Family is FAMILY_V4 or FAMILY_V6, and Protocol is rtm_protocol.
	Index, Family, Protocol int
}

// HostAddress is an address that a link has.
type HostAddress struct {
	// Index is the link's.
	Index  int
	Prefix netip.Prefix
	// Protocol is IFA_PROTO, the origin of the address. It is 0 if the maker gave none, and before Linux 5.18.
	Protocol int
	// Dynamic says that the address expires unless it is renewed, as one from DHCP or a router advertisement does.
	Dynamic bool
	// Tables are the tables, except local, with a route out of the link that prefers this
	// address as its source (RTA_PREFSRC), sorted.
	Tables []int
	// Routes are the protocols (rtm_protocol) of these routes, sorted.
	Routes []int
}

// addressByRA is IFAPROT_KERNEL_RA: the kernel has made the address from a router advertisement (linux/if_addr.h).
const addressByRA = 2

// ByRA says whether the kernel tells that it has made the address from a router advertisement.
func (a HostAddress) ByRA() bool { return a.Protocol == addressByRA }

// ProtocolName is the name of an rtm_protocol as ip-route(8) has it.
func ProtocolName(protocol int) string {
	return netlink.RouteProtocol(protocol).String()
}

// Clutter reads it. It costs one dump of the routes and one of the addresses for any number of links.
func (t Table) Clutter() (Clutter, error) {
	routes, err := t.routes(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return Clutter{}, err
	}
	var c Clutter
	main := slices.DeleteFunc(slices.Clone(routes), func(r netlink.Route) bool { return r.Table != unix.RT_TABLE_MAIN })
	c.Defaults = defaultRoutes(main)
	for _, r := range main {
		if learned(r) {
			c.Learned = append(c.Learned, LearnedRoute{Index: r.LinkIndex, Family: family(destination(r).Addr()), Protocol: int(r.Protocol)})
		}
	}
	if c.Addresses, err = t.hostAddresses(); err != nil {
		return Clutter{}, err
	}
	for i := range c.Addresses {
		c.Addresses[i].follow(routes)
	}
	return c, nil
}

func learned(r netlink.Route) bool {
	return len(r.MultiPath) == 0 && (r.Protocol == unix.RTPROT_RA || r.Protocol == unix.RTPROT_DHCP)
}

// follow finds the routes that go with an address.
func (a *HostAddress) follow(routes []netlink.Route) {
	tables, protocols := map[int]bool{}, map[int]bool{}
	for _, r := range routes {
		src, ok := netip.AddrFromSlice(r.Src)
		if ok && src.Unmap() == a.Prefix.Addr() && r.LinkIndex == a.Index && r.Table != unix.RT_TABLE_LOCAL {
			tables[r.Table], protocols[int(r.Protocol)] = true, true
		}
	}
	a.Tables, a.Routes = slices.Sorted(maps.Keys(tables)), slices.Sorted(maps.Keys(protocols))
}

// hostAddresses reads the addresses of all links, with IFA_PROTO, that netlink.Addr lacks.
func (t Table) hostAddresses() ([]HostAddress, error) {
	all, err := rtnl.Dump(func() ([]HostAddress, error) {
		req := t.nl.Request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if err != nil {
			return nil, err
		}
		var all []HostAddress
		for _, m := range messages {
			a, ok := readAddress(m)
			if ip := a.Prefix.Addr(); ok && !ip.IsLoopback() && (ip.Is4() || !ip.IsLinkLocalUnicast()) {
				all = append(all, a)
			}
		}
		return all, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return all, nil
}

// readAddress reads an RTM_NEWADDR. IFA_LOCAL is the address where there is one, which
// differs from IFA_ADDRESS on a point-to-point link.
func readAddress(m []byte) (HostAddress, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return HostAddress{}, false
	}
	head := nl.DeserializeIfAddrmsg(m)
	a := HostAddress{Index: int(head.Index), Dynamic: head.Flags&unix.IFA_F_PERMANENT == 0}
	var addr, local []byte
	rtnl.Attributes(m[unix.SizeofIfAddrmsg:], func(attr uint16, value []byte) {
		switch {
		case attr == unix.IFA_ADDRESS:
			addr = value
		case attr == unix.IFA_LOCAL:
			local = value
		case attr == rtnl.IfaProto && len(value) == 1:
			a.Protocol = int(value[0])
		}
	})
	if local != nil {
		addr = local
	}
	ip, ok := netip.AddrFromSlice(addr)
	a.Prefix = netip.PrefixFrom(ip, int(head.Prefixlen))
	return a, ok && a.Prefix.IsValid()
}

// Of returns the addresses of the link.
func (c *Clutter) Of(index int) []HostAddress {
	return slices.DeleteFunc(slices.Clone(c.Addresses), func(a HostAddress) bool { return a.Index != index })
}

// Routes predicts ClearRoutes for a link. clearable says whether it would delete a route.
// only and shared are the Only and Shared of its result.
func (c *Clutter) Routes(index int) (clearable, only, shared bool) {
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		defaults := c.Defaults.ofFamily(f)
		if defaults.OnlyBy(index) {
			only = true
			continue
		}
		clearable = clearable ||
			slices.ContainsFunc(defaults, func(r DefaultRoute) bool { return r.Index == index && !r.Beside }) ||
			slices.ContainsFunc(c.Learned, func(r LearnedRoute) bool { return r.Index == index && r.Family == f })
	}
	return clearable, only, c.Defaults.SharedBy(index)
}

// Cleared is the result of ClearRoutes.
type Cleared struct {
	// Protocols are the names of the deleted routes' protocols, sorted.
	Protocols []string
	// Only: the link has the only default route of a family, and keeps its routes of that family. Shared: the link is
	// one of several next hops of a default route, which stays (DefaultRoutes.SharedBy).
	Only, Shared bool
}

// ClearRoutes deletes the link's routes of the main table that are default routes or have the protocol ra or dhcp. It
// keeps the next hops by other links. It also keeps all routes of a family whose only default route is this link's
// (DefaultRoutes.OnlyBy). It reads the routes anew, since others change them too.
func (t Table) ClearRoutes(index int) (done Cleared, err error) {
	routes, err := t.routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return done, err
	}
	defaults := defaultRoutes(routes)
	done.Shared = defaults.SharedBy(index)
	only := map[int]bool{}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		only[f] = defaults.ofFamily(f).OnlyBy(index)
		done.Only = done.Only || only[f]
	}
	deleted := map[string]bool{}
	for _, r := range routes {
		if only[family(destination(r).Addr())] || !isDefault(r) && !learned(r) {
			continue
		}
		for _, own := range leadingOut(r, index) {
			if err := t.nl.RouteDel(&own); err != nil && !errors.Is(err, unix.ESRCH) {
				return done, fmt.Errorf("delete route %s of link %d: %w", destination(r), index, err)
			}
			deleted[ProtocolName(int(r.Protocol))] = true
		}
	}
	done.Protocols = slices.Sorted(maps.Keys(deleted))
	return done, nil
}

// ClearAddress removes an address from the link. It is no error if the link lacks it.
func (t Table) ClearAddress(index int, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: rtnl.IPNet(p)}
	if err := t.nl.AddrDel(rtnl.Ref(index), addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("delete address %s of link %d: %w", p, index, rtnl.NotFound(err))
	}
	return nil
}
