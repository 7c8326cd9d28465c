// Package routing changes the routes and policy rules of one netns: routes of pods, the source-based routing of the
// host's ENIs, and the routes that network managers leave on links. It also tells which links somebody else routes by.
package routing

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
)

// Table changes the routes and rules of the netns of its connection. It is not safe for concurrent use.
type Table struct{ nl *rtnl.Conn }

// New returns a Table on a connection that its caller closes.
func New(conn *rtnl.Conn) Table { return Table{conn} }

// ErrRouteTaken is returned when the kernel cannot hold a route beside another.
var ErrRouteTaken = errors.New("another route has its place")

// Route is a route by a link. The zero value of a field leaves it to the
// kernel, except Table, whose zero is the main table.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
	// MTU and AdvMSS in octets.
	MTU, AdvMSS int
	Priority    int
	Table       int
	// Scope is rtm_scope (RFC 3549 section 3.1.1); nil lets the gateway decide: link without one, universe with one.
	Scope *int
}

func (r Route) String() string {
	s := r.Dst.String()
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.Table != 0 {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	return s
}

// EnsureRoute adds a route as the reference plugins do: beside the routes that there are to its destination, and of
// IPv4 before them, so that it holds. The very same one already there is not an error. ErrRouteTaken: the kernel has
// another in its place, which the error names.
func (t Table) EnsureRoute(index int, r Route) error {
	// NLM_F_CREATE without NLM_F_EXCL, so that EEXIST means: same next hop and metric.
	err := t.nl.RouteAddEcmp(r.netlink(index))
	if errors.Is(err, unix.EEXIST) {
		err = t.compareRoute(index, r)
	}
	if err != nil {
		return fmt.Errorf("add route %s to link %d: %w", r, index, rtnl.NotFound(err))
	}
	return nil
}

func (r Route) netlink(index int) *netlink.Route {
	route := &netlink.Route{
		LinkIndex: index, Dst: rtnl.IPNet(r.Dst), MTU: r.MTU, AdvMSS: r.AdvMSS,
		Priority: r.Priority, Table: r.Table, Scope: netlink.SCOPE_UNIVERSE,
	}
	if r.Gateway.IsValid() {
		route.Gw = r.Gateway.AsSlice()
	} else if r.Dst.Addr().Is4() {
		route.Scope = netlink.SCOPE_LINK
	}
	if r.Scope != nil {
		route.Scope = netlink.Scope(*r.Scope)
	}
	return route
}

// compareRoute compares a route that the kernel refused with the one in its place: nil when they are the same.
func (t Table) compareRoute(index int, r Route) error {
	all, err := t.routes(cmp.Or(r.Table, unix.RT_TABLE_MAIN))
	if err != nil {
		return err
	}
	want := r.netlink(index)
	if want.Priority == 0 && r.Dst.Addr().Is6() {
		want.Priority = ipv6Metric
	}
	var owner *netlink.Route
	for _, got := range all {
		if destination(got) != r.Dst.Masked() || got.Priority != want.Priority {
			continue
		}
		ours := leads(got, index, r.Gateway)
		if ours && got.MTU == want.MTU && got.AdvMSS == want.AdvMSS && (r.Dst.Addr().Is6() || got.Scope == want.Scope) {
			return nil
		}
		if owner == nil || ours {
			owner = &got
		}
	}
	if owner == nil {
		return unix.EEXIST // it was gone at the second look
	}
	return fmt.Errorf("%w: %s", ErrRouteTaken, t.describeRoute(*owner))
}

// ipv6Metric is the priority of IPv6 routes that are added with none (IP6_RT_PRIO_USER).
const ipv6Metric = 1024

// leads says whether a route, or one of its next hops, leads out of the link by the gateway. The kernel dumps an IPv6
// route with several next hops at the first one and goes on behind the last (fib6_dump_node). It so leaves out a route
// without a gateway that was added in between: where one may be hidden, leads says that it is there.
func leads(r netlink.Route, index int, gateway netip.Addr) bool {
	if r.Family == netlink.FAMILY_V6 && len(r.MultiPath) > 0 && !gateway.IsValid() {
		return true
	}
	by := func(i int, gw net.IP) bool {
		got, _ := netip.AddrFromSlice(gw)
		return (i == index || index == Any) && got.Unmap() == gateway
	}
	return by(r.LinkIndex, r.Gw) || slices.ContainsFunc(r.MultiPath, func(hop *netlink.NexthopInfo) bool { return by(hop.LinkIndex, hop.Gw) })
}

// describeRoute says where a route leads, as ip-route(8) does.
func (t Table) describeRoute(r netlink.Route) string {
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	s := destination(r).String()
	for _, hop := range hops {
		if hop.Gw != nil {
			s += " via " + hop.Gw.String()
		}
		if l, err := t.nl.LinkByIndex(hop.LinkIndex); err == nil {
			s += " dev " + l.Attrs().Name
		}
	}
	for _, part := range []struct {
		name  string
		value int
	}{{"metric", r.Priority}, {"mtu", r.MTU}, {"advmss", r.AdvMSS}} {
		if part.value != 0 {
			s += fmt.Sprintf(" %s %d", part.name, part.value)
		}
	}
	if r.Table != unix.RT_TABLE_MAIN {
		s += fmt.Sprintf(" table %d", r.Table)
	}
	return s + " proto " + r.Protocol.String()
}

// Any stands for any link that a route leads out of.
const Any = 0

// HasRoute says whether a route with r's destination and gateway leads out of the link, or out of any for Any. A
// priority of 0 matches every priority. A Table of 0 matches every table: plugins that are chained after multi-eni,
// such as sbr, move routes to tables of their own.
func (t Table) HasRoute(index int, r Route) (bool, error) {
	routes, err := t.routes(r.Table)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(routes, func(got netlink.Route) bool {
		return destination(got) == r.Dst.Masked() && leads(got, index, r.Gateway) && (r.Priority == 0 || got.Priority == r.Priority)
	}), nil
}

// ForgetRouters deletes the default routes that the link has learned from router advertisements.
func (t Table) ForgetRouters(index int) error {
	learned := &netlink.Route{LinkIndex: index, Dst: rtnl.IPNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0)), Protocol: unix.RTPROT_RA, Table: unix.RT_TABLE_MAIN}
	for {
		switch err := t.nl.RouteDel(learned); {
		case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
			return nil
		case err != nil:
			return fmt.Errorf("delete the announced default routes of link %d: %w", index, rtnl.NotFound(err))
		}
	}
}

// routes lists a table, or all of them for RT_TABLE_UNSPEC, which is 0.
func (t Table) routes(table int) ([]netlink.Route, error) {
	all, err := rtnl.Dump(func() ([]netlink.Route, error) {
		return t.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", table, err)
	}
	return all, nil
}

func isDefault(r netlink.Route) bool {
	if r.Type != 0 && r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// destination is a route's destination. The kernel may leave a default route's out.
func destination(r netlink.Route) netip.Prefix {
	if dst, ok := rtnl.Prefix(r.Dst); ok {
		return dst
	}
	if cmp.Or(r.Family, netlink.FAMILY_V4) == netlink.FAMILY_V6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
