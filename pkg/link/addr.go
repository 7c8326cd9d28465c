package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EnsureAddress adds an address to the link. IPv6 addresses skip duplicate
// address detection (IFA_F_NODAD): the ENI owns them, and a tentative address
// cannot be used for a second. One that somebody else has just added, and that is
// still tentative, is added anew.
func (h *Handle) EnsureAddress(index int, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err := h.nl.AddrAdd(ref(index), addr)
	if errors.Is(err, unix.EEXIST) {
		if err = nil; p.Addr().Is6() {
			err = h.settle(index, addr)
		}
	}
	if err != nil {
		return fmt.Errorf("add address %s to link %d: %w", p, index, notFound(err))
	}
	return nil
}

// settle replaces an IPv6 address of the link that is tentative.
func (h *Handle) settle(index int, addr *netlink.Addr) error {
	found, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(ref(index), netlink.FAMILY_V6) })
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(found, func(a netlink.Addr) bool { return a.Equal(*addr) && a.Flags&unix.IFA_F_TENTATIVE != 0 }) {
		return nil
	}
	if err := h.nl.AddrDel(ref(index), addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return h.nl.AddrAdd(ref(index), addr)
}

// Addresses returns the link's addresses of both families.
func (h *Handle) Addresses(index int) ([]netip.Prefix, error) {
	found, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(ref(index), netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of link %d: %w", index, notFound(err))
	}
	all := make([]netip.Prefix, 0, len(found))
	for _, a := range found {
		if p, ok := prefix(a.IPNet); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// Route is a route by a link. The zero value of a field leaves it to the
// kernel, except Table, whose zero is the main table.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
	// MTU and AdvMSS in octets.
	MTU, AdvMSS int
	Priority    int
	Table       int
	// Scope is rtm_scope (RFC 3549 section 3.1.1); nil lets the gateway decide:
	// link without one, universe with one.
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

// EnsureRoute adds a route; the very same one already there is not an error.
func (h *Handle) EnsureRoute(index int, r Route) error {
	route := &netlink.Route{
		LinkIndex: index, Dst: ipNet(r.Dst), MTU: r.MTU, AdvMSS: r.AdvMSS,
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
	if err := h.nl.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route %s to link %d: %w", r, index, notFound(err))
	}
	return nil
}

// HasRoute says whether a route with r's destination and gateway leads out of
// the link, in r.Table or, when that is zero, in any table: plugins that are
// chained after multi-eni, such as sbr, move routes to tables of their own.
func (h *Handle) HasRoute(index int, r Route) (bool, error) {
	routes, err := h.routes(r.Table)
	if err != nil {
		return false, err
	}
	for _, got := range routes {
		dst, _ := prefix(got.Dst)
		gw, _ := netip.AddrFromSlice(got.Gw)
		if got.LinkIndex == index && dst == r.Dst.Masked() && gw.Unmap() == r.Gateway {
			return true, nil
		}
	}
	return false, nil
}

// DefaultRouteLinks returns the indexes of the links out of which a default
// route of the main table, of either family, leads, alone or as one of several
// next hops. It costs one dump of the routes, whatever the number of links.
func (h *Handle) DefaultRouteLinks() (map[int]bool, error) {
	routes, err := h.routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, err
	}
	links := map[int]bool{}
	for _, r := range routes {
		if !isDefault(r) {
			continue
		}
		if r.LinkIndex != 0 { // 0: it has next hops instead
			links[r.LinkIndex] = true
		}
		for _, hop := range r.MultiPath {
			links[hop.LinkIndex] = true
		}
	}
	return links, nil
}

// HasDefaultRoute says whether the link is one of DefaultRouteLinks.
func (h *Handle) HasDefaultRoute(index int) (bool, error) {
	links, err := h.DefaultRouteLinks()
	return links[index], err
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

// routes lists a table, or all of them for RT_TABLE_UNSPEC, which is 0.
func (h *Handle) routes(table int) ([]netlink.Route, error) {
	all, err := dump(func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefix converts; a nil or malformed network is not one.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}
