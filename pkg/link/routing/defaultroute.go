package routing

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
)

// DefaultRoute is a default route of the main table, or one next hop of a route that has several.
type DefaultRoute struct {
	// Index is the link's.
	Index int
	// Family is netlink's: FAMILY_V4 or FAMILY_V6.
	Family int
	// Protocol is rtm_protocol, the origin of the route. It is 0 (RTPROT_UNSPEC) for an IPv6
	// route of several next hops: the kernel reports only the first hop's.
	Protocol int
	// Beside says that the kernel cannot delete this next hop without the others. It can
	// delete an IPv6 next hop that has a gateway.
	Beside bool
}

// String names the route for people: "IPv6 default route (proto ra)".
func (r DefaultRoute) String() string {
	family := "IPv4"
	if r.Family == netlink.FAMILY_V6 {
		family = "IPv6"
	}
	return fmt.Sprintf("%s default route (proto %s)", family, netlink.RouteProtocol(r.Protocol))
}

// DefaultRoutes are the default routes of the main table, of both families.
type DefaultRoutes []DefaultRoute

// DefaultRoutes reads them. It costs one dump of the routes for any number of links.
func (t Table) DefaultRoutes() (DefaultRoutes, error) {
	routes, err := t.routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, err
	}
	return defaultRoutes(routes), nil
}

// defaultRoutes finds the default routes in the routes of the main table.
func defaultRoutes(routes []netlink.Route) (all DefaultRoutes) {
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		d := DefaultRoute{Index: r.LinkIndex, Family: family(destination(r).Addr()), Protocol: int(r.Protocol)}
		if len(r.MultiPath) == 0 {
			all = append(all, d)
			continue
		}
		if r.Family == netlink.FAMILY_V6 {
			d.Protocol = unix.RTPROT_UNSPEC
		}
		for _, hop := range r.MultiPath {
			d.Index, d.Beside = hop.LinkIndex, len(r.MultiPath) > 1 && !separable(r, hop)
			all = append(all, d)
		}
	}
	return all
}

func (all DefaultRoutes) ofFamily(family int) DefaultRoutes {
	return slices.DeleteFunc(slices.Clone(all), func(r DefaultRoute) bool { return r.Family != family })
}

// separable says whether the kernel can delete the next hop and leave the others. It can
// for IPv6, if the request names the gateway (ip6_route_del).
func separable(r netlink.Route, hop *netlink.NexthopInfo) bool {
	return r.Family == netlink.FAMILY_V6 && hop.Gw != nil
}

// Of returns the routes that lead out of the link.
func (all DefaultRoutes) Of(index int) DefaultRoutes {
	return slices.DeleteFunc(slices.Clone(all), func(r DefaultRoute) bool { return r.Index != index })
}

// Only returns a default route of the link if no other link has one of its family. The link's own routes from router
// advertisements do not count: their sender has not chosen this link for the node.
func (all DefaultRoutes) Only(index int) (DefaultRoute, bool) {
	for _, r := range all.Of(index) {
		other := func(o DefaultRoute) bool { return o.Index != index && o.Family == r.Family }
		if r.Protocol != unix.RTPROT_RA && !slices.ContainsFunc(all, other) {
			return r, true
		}
	}
	return DefaultRoute{}, false
}

// OnlyBy says whether the link has the only default route of a family, as Only.
func (all DefaultRoutes) OnlyBy(index int) bool {
	_, only := all.Only(index)
	return only
}

// SharedBy says whether a route of several next hops has the link as one of them.
func (all DefaultRoutes) SharedBy(index int) bool {
	return slices.ContainsFunc(all, func(r DefaultRoute) bool { return r.Index == index && r.Beside })
}

// RemoveDefaultRoutes deletes the default routes of the main table that lead out of this link, and returns their
// number. It leaves a route that it could delete only together with next hops by other links (SharedBy).
func (t Table) RemoveDefaultRoutes(index int) (int, error) {
	routes, err := t.routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		for _, own := range leadingOut(r, index) {
			if err := t.nl.RouteDel(&own); err != nil && !errors.Is(err, unix.ESRCH) {
				return n, fmt.Errorf("delete default route of link %d: %w", index, err)
			}
			n++
		}
	}
	return n, nil
}

// leadingOut returns the routes to delete so that r no longer leads out of the link. It
// leaves out next hops that the kernel cannot delete alone.
func leadingOut(r netlink.Route, index int) (out []netlink.Route) {
	if len(r.MultiPath) == 0 && r.LinkIndex == index {
		return []netlink.Route{r}
	}
	for _, hop := range r.MultiPath {
		if hop.LinkIndex == index && separable(r, hop) {
			out = append(out, netlink.Route{LinkIndex: index, Dst: rtnl.IPNet(destination(r)), Gw: hop.Gw, Priority: r.Priority, Table: r.Table})
		}
	}
	return out
}
