package routing_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestClutterPredicts: Routes predicts ClearRoutes for each link.
func TestClutterPredicts(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	m.learn("eth1", "0.0.0.0/0", "10.0.1.1", unix.RTPROT_DHCP)
	m.learn("eth2", "0.0.0.0/0", "10.0.2.1", unix.RTPROT_DHCP, func(r *netlink.Route) { r.Priority = 512 })
	m.learn("eth2", "::/0", "fd00:2::1", unix.RTPROT_BOOT)
	m.learn("eth3", "10.9.0.0/16", "10.0.3.1", unix.RTPROT_DHCP)
	m.learn("eth4", "10.8.0.0/16", "10.0.4.1", unix.RTPROT_STATIC)
	must(t, netlink.RouteAdd(&netlink.Route{Dst: dst("0.0.0.0/0"), Priority: 9, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: m.Index["eth5"], Gw: []byte{10, 0, 5, 1}}, {LinkIndex: m.Index["eth6"], Gw: []byte{10, 0, 6, 1}},
	}}))
	c, err := m.Clutter()
	must(t, err)
	for name, want := range map[string][3]bool{ // clearable, only, shared
		"eth1": {true, false, false},
		"eth2": {true, true, false},
		"eth3": {true, false, false},
		"eth4": {false, false, false},
		"eth5": {false, false, true},
	} {
		clearable, only, shared := c.Routes(m.Index[name])
		if got := [3]bool{clearable, only, shared}; got != want {
			t.Errorf("%s: clearable, only, shared = %v; want %v", name, got, want)
		}
	}
	for _, name := range []string{"eth3", "eth4", "eth5", "eth2"} {
		clearable, only, shared := c.Routes(m.Index[name])
		done, err := m.ClearRoutes(m.Index[name])
		if err != nil || (len(done.Protocols) > 0) != clearable || done.Only != only || done.Shared != shared {
			t.Errorf("%s: %+v, %v; predicted %v, %v, %v", name, done, err, clearable, only, shared)
		}
	}
	own := c.Of(m.Index["eth4"])
	if len(own) != 2 || own[0].Index != m.Index["eth4"] || own[0].ByRA() {
		t.Errorf("addresses of eth4: %+v; want its two, which no router has announced", own)
	}
	if !(routing.HostAddress{Protocol: 2}).ByRA() {
		t.Error("an address that the kernel made from a router advertisement is none")
	}
}

// TestForgetRouters: announced default routes go, of that link only, and nobody else's.
func TestForgetRouters(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	metric := func(p int) func(*netlink.Route) { return func(r *netlink.Route) { r.Priority = p } }
	m.learn("eth1", "::/0", "fd00:1::1", unix.RTPROT_RA, metric(100))
	m.learn("eth1", "::/0", "fd00:1::2", unix.RTPROT_RA, metric(200))
	m.learn("eth1", "::/0", "fd00:1::3", unix.RTPROT_STATIC, metric(300))
	m.learn("eth1", "fd99::/64", "fd00:1::1", unix.RTPROT_RA)
	m.learn("eth2", "::/0", "fd00:2::1", unix.RTPROT_RA)
	for range 2 {
		must(t, m.ForgetRouters(m.Index["eth1"]))
		if got := strings.Join(m.routesOf("eth1"), ", "); got != "::/0 static, fd99::/64 ra" {
			t.Errorf("left on eth1: %s", got)
		}
	}
	all, err := m.DefaultRoutes()
	must(t, err)
	if len(all) != 2 || len(all.Of(m.Index["eth2"])) != 1 {
		t.Fatalf("default routes: %+v; want the static one, and the other link's", all)
	}
	if got := all.Of(m.Index["eth2"])[0].String(); got != "IPv6 default route (proto ra)" {
		t.Errorf("for people: %q", got)
	}
	if got := (routing.DefaultRoute{Family: netlink.FAMILY_V4, Protocol: unix.RTPROT_DHCP}).String(); got != "IPv4 default route (proto dhcp)" {
		t.Errorf("for people: %q", got)
	}
}

// TestRouteForms: each field of a Route reaches the kernel, and HasRoute finds it by the fields that are given.
func TestRouteForms(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	index := m.Index["eth1"]
	host := int(netlink.SCOPE_HOST)
	to := netip.MustParsePrefix
	gw, gw6 := netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")
	for text, r := range map[string]routing.Route{
		"10.20.0.0/16":                {Dst: to("10.20.0.0/16")},
		"10.21.0.0/16 via 10.0.1.1":   {Dst: to("10.21.0.0/16"), Gateway: gw, MTU: 1400, AdvMSS: 1360},
		"10.22.0.0/16 table 77":       {Dst: to("10.22.0.0/16"), Table: 77, Priority: 5},
		"10.23.0.0/16":                {Dst: to("10.23.0.0/16"), Scope: &host},
		"fd20::/64 via fd00:1::1":     {Dst: to("fd20::/64"), Gateway: gw6, MTU: 1400},
		"fd21::/64":                   {Dst: to("fd21::/64"), Priority: 7},
		"::/0 via fd00:1::1 table 77": {Dst: to("::/0"), Gateway: gw6, Table: 77},
		"0.0.0.0/0 via 10.0.1.1":      {Dst: to("0.0.0.0/0"), Gateway: gw},
		"10.24.0.0/16 via 10.0.1.1":   {Dst: to("10.24.9.9/16").Masked(), Gateway: gw},
	} {
		if r.String() != text {
			t.Errorf("for people: %q, want %q", r, text)
		}
		if has, err := m.HasRoute(routing.Any, r); has || err != nil {
			t.Errorf("%s before: %v, %v", r, has, err)
		}
		for range 2 { // the very same once more is no error
			if err := m.EnsureRoute(index, r); err != nil {
				t.Errorf("%s: %v", r, err)
			}
		}
		for _, by := range []int{index, routing.Any} {
			if has, err := m.HasRoute(by, r); !has || err != nil {
				t.Errorf("%s by %d: %v, %v; want it there", r, by, has, err)
			}
		}
		if has, err := m.HasRoute(m.Index["eth2"], r); has || err != nil {
			t.Errorf("%s by another link: %v, %v", r, has, err)
		}
		other := r
		other.Priority = 4711
		if has, err := m.HasRoute(index, other); has || err != nil {
			t.Errorf("%s of another priority: %v, %v", r, has, err)
		}
	}
	// A route that the kernel cannot have at all.
	if err := m.EnsureRoute(index, routing.Route{Dst: to("10.30.0.0/16"), Gateway: netip.MustParseAddr("192.0.2.1")}); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("a gateway that is not on the link: %v; want ENETUNREACH", err)
	}
	taken := routing.Route{Dst: to("fd20::/64"), Gateway: gw6, MTU: 1300}
	const owner = "via fd00:1::1 dev eth1 metric 1024 mtu 1400 proto"
	if err := m.EnsureRoute(index, taken); !errors.Is(err, routing.ErrRouteTaken) || !strings.Contains(err.Error(), owner) {
		t.Errorf("the same route with another MTU: %v; want ErrRouteTaken, and the owner", err)
	}
}
