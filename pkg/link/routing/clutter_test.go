package routing_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// learn adds a route as a network manager does.
func (m marked) learn(name, to, gw string, protocol int, edit ...func(*netlink.Route)) {
	m.T.Helper()
	r := &netlink.Route{LinkIndex: m.Index[name], Dst: dst(to), Protocol: netlink.RouteProtocol(protocol)}
	if gw != "" {
		r.Gw = netip.MustParseAddr(gw).AsSlice()
	}
	for _, e := range edit {
		e(r)
	}
	must(m.T, netlink.RouteAdd(r))
}

// routesOf are the main table's routes of a link that the kernel has not made itself.
func (m marked) routesOf(name string) (out []string) {
	m.T.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: m.Index[name]}, netlink.RT_FILTER_OIF)
		must(m.T, err)
		for _, r := range all {
			if r.Protocol != unix.RTPROT_KERNEL {
				out = append(out, fmt.Sprintf("%s %s", r.Dst, r.Protocol))
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestClearRoutes: all default routes and everything learned go, of the link only; the
// family whose only way out it is keeps its routes; the other family does not count.
func TestClearRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	metric := func(p int) func(*netlink.Route) { return func(r *netlink.Route) { r.Priority = p } }
	m := newMarked(t)
	m.learn("eth1", "0.0.0.0/0", "10.0.1.1", unix.RTPROT_DHCP)
	m.learn("eth2", "0.0.0.0/0", "10.0.2.1", unix.RTPROT_DHCP, metric(512))
	m.learn("eth2", "10.0.2.1/32", "", unix.RTPROT_DHCP, metric(512))
	m.learn("eth2", "0.0.0.0/0", "10.0.2.1", unix.RTPROT_STATIC, metric(600))
	m.learn("eth2", "10.9.0.0/16", "10.0.2.1", unix.RTPROT_STATIC)
	m.learn("eth2", "::/0", "fd00:2::1", unix.RTPROT_BOOT)
	m.learn("eth2", "fd77::/64", "fd00:2::1", unix.RTPROT_RA)
	m.learn("eth2", "0.0.0.0/0", "10.0.2.1", unix.RTPROT_DHCP, func(r *netlink.Route) { r.Table = 10002 })
	cleared := func(name string, want routing.Cleared, left ...string) {
		t.Helper()
		got, err := m.ClearRoutes(m.Index[name])
		must(t, err)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("cleared %s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(left, m.routesOf(name), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("routes left on %s (-want +got):\n%s", name, diff)
		}
	}
	cleared("eth2", routing.Cleared{Protocols: []string{"dhcp", "static"}, Only: true}, "10.9.0.0/16 static", "::/0 boot", "fd77::/64 ra")
	m.learn("eth1", "::/0", "fd00:1::1", unix.RTPROT_RA, metric(2048))
	cleared("eth2", routing.Cleared{Protocols: []string{"boot", "ra"}}, "10.9.0.0/16 static")
	cleared("eth2", routing.Cleared{}, "10.9.0.0/16 static")
	cleared("eth1", routing.Cleared{Protocols: []string{"ra"}, Only: true}, "0.0.0.0/0 dhcp") // a router's announcement is nobody's choice
	must(t, netlink.RouteAdd(&netlink.Route{Dst: dst("0.0.0.0/0"), Priority: 9, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: m.Index["eth3"], Gw: []byte{10, 0, 3, 1}}, {LinkIndex: m.Index["eth4"], Gw: []byte{10, 0, 4, 1}},
	}}))
	cleared("eth3", routing.Cleared{Shared: true})
	if got, err := m.Clutter(); err != nil || len(got.Learned) != 1 || !got.Defaults.SharedBy(m.Index["eth3"]) {
		t.Errorf("Clutter = %+v, %v; want the learned route of eth1, and the default route with two next hops", got, err)
	}
}

// TestHostAddresses: an address has the tables and protocols of the routes that prefer it as source.
func TestHostAddresses(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	l, err := netlink.LinkByName("eth2")
	must(t, err)
	for _, text := range []string{"10.0.2.77/32", "fd00:2::77/128"} {
		addr, err := netlink.ParseAddr(text)
		must(t, err)
		addr.ValidLft, addr.PreferedLft = 600, 600
		must(t, netlink.AddrAdd(l, addr))
	}
	m.learn("eth2", "0.0.0.0/0", "10.0.2.1", unix.RTPROT_DHCP, func(r *netlink.Route) {
		r.Table, r.Src = 10002, []byte{10, 0, 2, 77}
	})
	c, err := m.Clutter()
	must(t, err)
	var got []routing.HostAddress
	for _, a := range c.Addresses {
		if a.Index == m.Index["eth2"] {
			got = append(got, a)
		}
	}
	index := m.Index["eth2"]
	want := []routing.HostAddress{
		{Index: index, Prefix: netip.MustParsePrefix("10.0.2.15/24"), Tables: []int{254}, Routes: []int{unix.RTPROT_KERNEL}},
		{Index: index, Prefix: netip.MustParsePrefix("10.0.2.77/32"), Dynamic: true, Tables: []int{10002}, Routes: []int{unix.RTPROT_DHCP}},
		{Index: index, Prefix: netip.MustParsePrefix("fd00:2::15/64")},
		{Index: index, Prefix: netip.MustParsePrefix("fd00:2::77/128"), Dynamic: true},
	}
	slices.SortFunc(got, func(a, b routing.HostAddress) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("addresses of eth2 (-want +got):\n%s", diff)
	}
	for range 2 { // one that is not there is no error
		must(t, m.ClearAddress(index, netip.MustParsePrefix("10.0.2.77/32")))
		must(t, m.ClearAddress(index, netip.MustParsePrefix("fd00:2::77/128")))
	}
	left, err := m.Addresses(index)
	must(t, err)
	if slices.ContainsFunc(left, func(p netip.Prefix) bool { return p.IsSingleIP() }) {
		t.Errorf("addresses left: %v", left)
	}
}
