package link

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// DefaultRoute is one way out of a default route of the main table: the whole route, or
// one of its next hops.
type DefaultRoute struct {
	// Index is the link's.
	Index int
	// Family is netlink's: FAMILY_V4 or FAMILY_V6.
	Family int
	// Protocol is rtm_protocol: who has made the route.
	Protocol int
	// Beside says that the route has other next hops too.
	Beside bool
}

// DefaultRoutes are the default routes of the main table, of both families.
type DefaultRoutes []DefaultRoute

// DefaultRoutes reads them. It costs one dump of the routes, whatever the number of
// links.
func (h *Handle) DefaultRoutes() (DefaultRoutes, error) {
	routes, err := h.routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, err
	}
	var all DefaultRoutes
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		d := DefaultRoute{Index: r.LinkIndex, Family: family(destination(r).Addr()), Protocol: int(r.Protocol)}
		if len(r.MultiPath) == 0 {
			all = append(all, d)
			continue
		}
		for _, hop := range r.MultiPath {
			d.Index, d.Beside = hop.LinkIndex, len(r.MultiPath) > 1
			all = append(all, d)
		}
	}
	return all, nil
}

// Of returns the routes that lead out of the link.
func (all DefaultRoutes) Of(index int) DefaultRoutes {
	return slices.DeleteFunc(slices.Clone(all), func(r DefaultRoute) bool { return r.Index != index })
}

// Links returns the indexes of the links out of which the routes lead.
func (all DefaultRoutes) Links() map[int]bool {
	links := map[int]bool{}
	for _, r := range all {
		links[r.Index] = true
	}
	return links
}

// OnlyBy says whether the link has the only default route of a family. A route that it
// has learned from router advertisements does not count: whoever sends them there
// has not chosen this link for the node.
func (all DefaultRoutes) OnlyBy(index int) bool {
	for _, r := range all.Of(index) {
		other := func(o DefaultRoute) bool { return o.Index != index && o.Family == r.Family }
		if r.Protocol != unix.RTPROT_RA && !slices.ContainsFunc(all, other) {
			return true
		}
	}
	return false
}

// SharedBy says whether a route of several next hops has the link as one of them.
func (all DefaultRoutes) SharedBy(index int) bool {
	return slices.ContainsFunc(all, func(r DefaultRoute) bool { return r.Index == index && r.Beside })
}

// RemoveDefaultRoutes deletes the default routes of the main table that lead
// out of this link only, and says how many there were.
func (h *Handle) RemoveDefaultRoutes(index int) (int, error) {
	routes, err := h.routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, r := range routes {
		if r.LinkIndex != index || !isDefault(r) {
			continue
		}
		if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return n, fmt.Errorf("delete default route of link %d: %w", index, err)
		}
		n++
	}
	return n, nil
}
