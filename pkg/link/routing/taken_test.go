package routing_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestAddressTaken: the very same address is no error, also with another beside it; an
// IPv6 address of another length is.
func TestAddressTaken(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	l, err := h.ByName("eth1")
	must(t, err)
	for _, a := range []string{"10.0.2.15/24", "10.0.2.15/32", "10.0.2.15/24", "fd00::15/64", "fd00::15/64"} {
		must(t, h.EnsureAddress(l.Index, netip.MustParsePrefix(a)))
	}
	err = h.EnsureAddress(l.Index, netip.MustParsePrefix("fd00::15/128"))
	if !errors.Is(err, link.ErrAddressTaken) || !strings.Contains(err.Error(), "fd00::15/64") {
		t.Errorf("another length: %v; want ErrAddressTaken and the one that is there", err)
	}
}

// TestRouteTaken: the very same route is no error, whoever added it; where the kernel
// holds another instead, that is named.
func TestRouteTaken(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	must(t, h.SetUp(l.Index))
	for _, a := range []string{"10.0.2.15/24", "fd00::15/64"} {
		must(t, h.EnsureAddress(l.Index, netip.MustParsePrefix(a)))
	}
	gw4, gw6, dst6 := netip.MustParseAddr("10.0.2.1"), netip.MustParseAddr("fd00::1"), netip.MustParsePrefix("fd09::/64")
	base := []routing.Route{
		{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: gw4, MTU: 1400}, {Dst: dst6, Gateway: gw6}, {Dst: dst6, Gateway: gw6, Priority: 7, MTU: 1400},
		{Dst: dst6, Gateway: gw6, Table: 300, AdvMSS: 1300}, {Dst: netip.MustParsePrefix("fd08::/64")},
	}
	for range 2 {
		for _, r := range base {
			must(t, h.EnsureRoute(l.Index, r))
		}
	}
	for _, tt := range []struct {
		r     routing.Route
		owner string // "": the kernel holds both
	}{
		{routing.Route{Dst: base[0].Dst, Gateway: gw4}, ""},
		{routing.Route{Dst: base[0].Dst, Gateway: gw4.Next(), MTU: 1400}, ""},
		{routing.Route{Dst: dst6, Gateway: gw6.Next()}, ""}, // one of several next hops from now on
		{routing.Route{Dst: dst6, Gateway: gw6}, ""},
		{routing.Route{Dst: dst6, Gateway: gw6, MTU: 1400}, "fd09::/64 via fd00::1 dev eth1 via fd00::2 dev eth1 metric 1024"},
		{routing.Route{Dst: dst6, Gateway: gw6, Priority: 7}, "fd09::/64 via fd00::1 dev eth1 metric 7 mtu 1400"},
		{routing.Route{Dst: dst6, Gateway: gw6, Table: 300}, "via fd00::1 dev eth1 metric 1024 advmss 1300 table 300"},
	} {
		err := h.EnsureRoute(l.Index, tt.r)
		switch {
		case tt.owner == "":
			must(t, err)
			if ok, err := h.HasRoute(l.Index, tt.r); err != nil || !ok {
				t.Errorf("HasRoute(%s) = %v, %v", tt.r, ok, err)
			}
		case !errors.Is(err, routing.ErrRouteTaken) || !strings.Contains(err.Error(), tt.owner):
			t.Errorf("%+v: %v; want ErrRouteTaken and %q", tt.r, err, tt.owner)
		}
	}
}

// TestHiddenRoute: the kernel's dump passes over an IPv6 route without a gateway between
// two next hops of another. It is there all the same.
func TestHiddenRoute(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1, nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"})
	h := open(t)
	var index []int
	for i, name := range []string{"eth1", "eth2"} {
		l, err := h.ByName(name)
		must(t, err)
		must(t, h.SetUp(l.Index))
		must(t, h.EnsureAddress(l.Index, netip.MustParsePrefix(fmt.Sprintf("fd00:%d::5/64", i))))
		index = append(index, l.Index)
	}
	dst := netip.MustParsePrefix("fd09::/64")
	hidden := routing.Route{Dst: dst}
	must(t, h.EnsureRoute(index[0], routing.Route{Dst: dst, Gateway: netip.MustParseAddr("fd00:0::1")}))
	must(t, h.EnsureRoute(index[1], hidden))
	must(t, h.EnsureRoute(index[1], routing.Route{Dst: dst, Gateway: netip.MustParseAddr("fd00:1::1")}))
	must(t, h.EnsureRoute(index[1], hidden))
	if ok, err := h.HasRoute(index[1], hidden); err != nil || !ok {
		t.Errorf("HasRoute = %v, %v", ok, err)
	}
}

// TestSourcesBesideOthers: foreign rules and routes in the place of ours stay. Ours are
// there, or an error says why not, and in the end ours are gone.
func TestSourcesBesideOthers(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1, nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"})
	h := open(t)
	var want []routing.Source
	for i, name := range []string{"eth1", "eth2"} {
		l, err := h.ByName(name)
		must(t, err)
		must(t, h.SetUp(l.Index))
		a4, a6 := netip.MustParsePrefix(fmt.Sprintf("10.0.%d.15/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::15/64", i))
		must(t, h.EnsureAddress(l.Index, a4))
		must(t, h.EnsureAddress(l.Index, a6))
		want = append(want, routing.Source{
			Index: l.Index, From: []netip.Prefix{netip.PrefixFrom(a4.Addr(), 32), netip.PrefixFrom(a6.Addr(), 128)}, Subnets: []netip.Prefix{a4, a6},
			Routers: []netip.Addr{a4.Masked().Addr().Next(), a6.Masked().Addr().Next()},
		})
	}
	taken := 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a repeatable search
		before := theirs(t)
		remove := addForeign(t, r, want)
		foreign := theirs(t)
		_, err := h.EnsureSources(want)
		if diff := cmp.Diff(foreign, theirs(t)); diff != "" {
			t.Errorf("seed %d: foreign rules and routes (-before +after):\n%s", seed, diff)
		}
		if n := len(ours(t)); (n == 12) != (err == nil) {
			t.Errorf("seed %d: %d of 12 rules and routes, error %v", seed, n, err)
		}
		if err != nil {
			if taken++; !errors.Is(err, routing.ErrRuleTaken) && !errors.Is(err, routing.ErrRouteTaken) {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
		if seed%2 == 0 { // ours go first
			_, err := h.EnsureSources(nil)
			must(t, err)
			if diff := cmp.Diff(foreign, theirs(t)); diff != "" {
				t.Errorf("seed %d: foreign rules and routes, without ours (-before +after):\n%s", seed, diff)
			}
		}
		remove()
		_, err = h.EnsureSources(want)
		must(t, err)
		if n := len(ours(t)); n != 12 {
			t.Errorf("seed %d: %d of 12 rules and routes once the others' are gone", seed, n)
		}
		_, err = h.EnsureSources(nil)
		must(t, err)
		if diff := cmp.Diff(before, theirs(t)); diff != "" || ours(t) != nil || t.Failed() {
			t.Fatalf("seed %d: left %q, and of others (-before +after):\n%s", seed, ours(t), diff)
		}
	}
	if taken == 0 || taken == 40 {
		t.Errorf("of 40 scenes %d had something where ours should be", taken)
	}
}

// addForeign adds rules and routes that resemble the wanted ones.
func addForeign(t *testing.T, r *rand.Rand, want []routing.Source) (remove func()) {
	t.Helper()
	var undo []func() error
	for range r.IntN(3) {
		s := want[r.IntN(len(want))]
		from := s.From[r.IntN(len(s.From))]
		rule := netlink.NewRule()
		rule.Src = &net.IPNet{IP: from.Addr().AsSlice(), Mask: net.CIDRMask(from.Bits(), from.Addr().BitLen())}
		rule.Table, rule.Priority = 20000+s.Index+r.IntN(2)*100, routing.SourcePriority+r.IntN(2)
		rule.Protocol, rule.Invert, rule.Mark = uint8(r.IntN(2))*4, r.IntN(2) == 0, uint32(r.IntN(2))
		if netlink.RuleAdd(rule) == nil {
			undo = append(undo, func() error { return netlink.RuleDel(rule) })
		}
	}
	for range r.IntN(3) {
		s := want[r.IntN(len(want))]
		router := s.Routers[r.IntN(2)]
		dst := netip.PrefixFrom(router, 0).Masked()
		if r.IntN(2) == 0 {
			dst = netip.PrefixFrom(router, 16+16*r.IntN(2)).Masked()
		}
		route := &netlink.Route{LinkIndex: s.Index, Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
			Table: 20000 + s.Index + r.IntN(2)*100, Gw: router.Next().AsSlice(), Protocol: unix.RTPROT_STATIC}
		if netlink.RouteAdd(route) == nil {
			undo = append(undo, func() error { return netlink.RouteDel(route) })
		}
	}
	return func() {
		for _, f := range undo {
			must(t, f())
		}
	}
}

// theirs are the rules and routes that are not ours.
func theirs(t *testing.T) (out []string) {
	t.Helper()
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range rules {
		if r.Protocol != routing.SourceProtocol {
			out = append(out, fmt.Sprintf("%s protocol %d mark %d inverted %t", r, r.Protocol, r.Mark, r.Invert))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range routes {
		if r.Protocol != routing.SourceProtocol && r.Table != unix.RT_TABLE_LOCAL && (r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast()) {
			out = append(out, r.String())
		}
	}
	slices.Sort(out)
	return out
}
