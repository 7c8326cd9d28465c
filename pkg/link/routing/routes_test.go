package routing_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var must, node, open, pod, eth1, dst = linktest.Must, linktest.Node, linktest.Open, linktest.Pod, linktest.ENI1, linktest.Dst

// TestDefaultRoutes: a link counts alone and as one of several next hops, which no removal takes away.
func TestDefaultRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1, nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"}, nstest.ENI{PCI: "0000:00:08.0", Name: "eth3", MAC: "02:00:00:00:00:03"})
	h := open(t)
	var index [4]int
	for i, name := range []string{1: "eth1", 2: "eth2", 3: "eth3"} {
		if name == "" {
			continue
		}
		l, err := h.ByName(name)
		must(t, err)
		index[i] = l.Index
		must(t, h.SetUp(l.Index))
		must(t, h.EnsureAddress(l.Index, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 15}), 24)))
	}
	must(t, h.EnsureRoute(index[1], routing.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.0.1.1")}))
	want := func(links map[int]bool) {
		t.Helper()
		got, err := h.DefaultRoutes()
		must(t, err)
		by := map[int]bool{}
		for _, r := range got {
			by[r.Index] = true
		}
		if diff := cmp.Diff(links, by, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("links with a default route (-want +got):\n%s", diff)
		}
		for _, i := range index[1:] {
			if of := got.Of(i); (len(of) > 0) != links[i] {
				t.Errorf("Of(%d) = %v; want any: %v", i, of, links[i])
			}
		}
	}
	want(nil)
	must(t, h.EnsureRoute(index[1], routing.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.1.1")}))
	want(map[int]bool{index[1]: true})
	must(t, netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Priority: 7, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: index[2], Gw: net.IPv4(10, 0, 2, 1)}, {LinkIndex: index[3], Gw: net.IPv4(10, 0, 3, 1)},
	}}))
	want(map[int]bool{index[1]: true, index[2]: true, index[3]: true})
	if n, err := h.RemoveDefaultRoutes(index[2]); err != nil || n != 0 {
		t.Errorf("RemoveDefaultRoutes of a next hop = %d, %v; want 0", n, err)
	}
	if n, err := h.RemoveDefaultRoutes(index[1]); err != nil || n != 1 {
		t.Errorf("RemoveDefaultRoutes = %d, %v; want 1", n, err)
	}
	want(map[int]bool{index[2]: true, index[3]: true})
}

// TestDefaultRoutesIPv6: of an IPv6 route of several next hops only this link's goes.
func TestDefaultRoutesIPv6(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1, nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"})
	h := open(t)
	var index []int
	for i, name := range []string{"eth1", "eth2"} {
		l, err := h.ByName(name)
		must(t, err)
		index = append(index, l.Index)
		must(t, h.SetUp(l.Index))
		subnet := netip.MustParsePrefix([]string{"fd00:1::/64", "fd00:2::/64"}[i])
		must(t, h.EnsureAddress(l.Index, netip.PrefixFrom(subnet.Addr().Next(), 64)))
		// The kernel makes one route of the two, since their metrics are the same.
		must(t, h.EnsureRoute(l.Index, routing.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: subnet.Addr().Next().Next()}))
	}
	all, err := h.DefaultRoutes()
	if err != nil || len(all) != 2 || all.SharedBy(index[0]) || all.OnlyBy(index[0]) || all[0].Protocol != 0 {
		t.Fatalf("DefaultRoutes = %+v, %v; want one by each link, neither shared", all, err)
	}
	if n, err := h.RemoveDefaultRoutes(index[0]); err != nil || n != 1 {
		t.Errorf("RemoveDefaultRoutes = %d, %v; want 1", n, err)
	}
	if all, err = h.DefaultRoutes(); err != nil || len(all) != 1 || !all.OnlyBy(index[1]) {
		t.Errorf("DefaultRoutes = %+v, %v; want the other link's", all, err)
	}
}

// TestOnlyDefaultRoute: each family has a way out of its own, and none by a router that only announced itself.
func TestOnlyDefaultRoute(t *testing.T) {
	const v4, v6, dhcp, ra = netlink.FAMILY_V4, netlink.FAMILY_V6, 16, 9
	for name, tt := range map[string]struct {
		routes routing.DefaultRoutes
		only   bool
		shared bool
	}{
		"none":                          {nil, false, false},
		"alone":                         {routing.DefaultRoutes{{Index: 2, Family: v4, Protocol: dhcp}}, true, false},
		"beside the primary's":          {routing.DefaultRoutes{{Index: 1, Family: v4}, {Index: 2, Family: v4, Protocol: dhcp}}, false, false},
		"another family's":              {routing.DefaultRoutes{{Index: 1, Family: v4}, {Index: 2, Family: v6}}, true, false},
		"announced":                     {routing.DefaultRoutes{{Index: 1, Family: v4}, {Index: 2, Family: v6, Protocol: ra}}, false, false},
		"one of several":                {routing.DefaultRoutes{{Index: 1, Family: v4, Beside: true}, {Index: 2, Family: v4, Beside: true}}, false, true},
		"both hops are by this link":    {routing.DefaultRoutes{{Index: 2, Family: v4, Beside: true}, {Index: 2, Family: v4, Beside: true}}, true, true},
		"another link has several hops": {routing.DefaultRoutes{{Index: 1, Family: v4, Beside: true}, {Index: 3, Family: v4, Beside: true}}, false, false},
	} {
		if only, shared := tt.routes.OnlyBy(2), tt.routes.SharedBy(2); only != tt.only || shared != tt.shared {
			t.Errorf("%s: OnlyBy = %t, SharedBy = %t; want %t, %t", name, only, shared, tt.only, tt.shared)
		}
	}
}
