package events_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/events"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var must, node, dst = linktest.Must, linktest.Node, linktest.Dst

// heard says whether an event comes after f, and leaves none behind.
func heard(t *testing.T, events <-chan struct{}, f func()) (came bool) {
	t.Helper()
	f()
	for wait := 300 * time.Millisecond; ; came, wait = true, 100*time.Millisecond {
		select {
		case _, open := <-events:
			if !open {
				t.Fatal("the subscription has ended")
			}
		case <-time.After(wait):
			return came
		}
	}
}

// quiet waits until the kernel's own IPv6 addresses have come.
func quiet(events <-chan struct{}) {
	for {
		select {
		case <-events:
		case <-time.After(3 * time.Second):
			return
		}
	}
}

// rule returns functions that add and delete a rule.
func rule(t *testing.T, edit func(*netlink.Rule)) (add, del func()) {
	r := netlink.NewRule()
	r.Family, r.Table, r.Priority = netlink.FAMILY_V4, 100, 77
	edit(r)
	return func() { t.Helper(); must(t, netlink.RuleAdd(r)) }, func() { t.Helper(); must(t, netlink.RuleDel(r)) }
}

// TestInterest: only changes that concern a link of interest are events. While it is not
// known which links these are, every change is.
func TestInterest(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := linktest.NewLinks(t)
	ours, err := m.ByName("eth1")
	must(t, err)
	interest := &events.Interest{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, err := interest.Subscribe(ctx)
	must(t, err)
	route := func(name, to string, more ...func(*netlink.Route)) *netlink.Route {
		r := &netlink.Route{LinkIndex: m.Index[name], Dst: dst(to), Protocol: unix.RTPROT_BOOT}
		for _, edit := range more {
			edit(r)
		}
		return r
	}
	add := func(r *netlink.Route) func() { return func() { t.Helper(); must(t, netlink.RouteAdd(r)) } }
	del := func(r *netlink.Route) func() { return func() { t.Helper(); must(t, netlink.RouteDel(r)) } }
	own := func(r *netlink.Route) { r.Protocol, r.Table = routing.SourceProtocol, 20000+ours.Index }
	addr := func(name, text string) func() {
		return func() { t.Helper(); must(t, m.EnsureAddress(m.Index[name], netip.MustParsePrefix(text))) }
	}
	rule := func(edit func(*netlink.Rule)) (func(), func()) { return rule(t, edit) }
	podRule, podRuleOver := rule(func(r *netlink.Rule) { r.Src = dst("10.0.9.9/32") })
	ourRule, ourRuleOver := rule(func(r *netlink.Rule) {
		r.Src, r.Protocol, r.Priority = dst("10.0.1.15/32"), routing.SourceProtocol, 1400
	})
	named, namedOver := rule(func(r *netlink.Rule) { r.IifName, r.Priority = "eth1", 78 })
	other, otherOver := rule(func(r *netlink.Rule) { r.IifName, r.Priority = "eth2", 79 })

	if !heard(t, events, add(route("eth2", "10.50.0.0/16"))) {
		t.Error("a route was not heard of though nobody has said which links matter")
	}
	quiet(events)
	interest.Set([]link.Link{ours})
	hops := func(names ...string) *netlink.Route {
		r := &netlink.Route{Dst: dst("10.60.0.0/16")}
		for _, name := range names {
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: m.Index[name]})
		}
		return r
	}
	for _, c := range []struct {
		name string
		f    func()
		want bool
	}{
		{"a foreign route", add(route("eth2", "10.51.0.0/16")), false},
		{"its end", del(route("eth2", "10.51.0.0/16")), false},
		{"a route of several foreign next hops", add(hops("eth2", "eth3")), false},
		{"its end", del(hops("eth2", "eth3")), false},
		{"a route of which one next hop is ours", add(hops("eth2", "eth1")), true},
		{"its end", del(hops("eth2", "eth1")), true},
		{"a default route of ours", add(route("eth1", "0.0.0.0/0")), true},
		{"its end", del(route("eth1", "0.0.0.0/0")), true},
		{"a default route of IPv6", add(route("eth1", "::/0")), true},
		{"a route that we add", add(route("eth1", "10.52.0.0/16", own)), false},
		{"its end, which may be somebody else's doing", del(route("eth1", "10.52.0.0/16", own)), true},
		{"a foreign address", addr("eth2", "10.0.2.77/32"), false},
		{"a foreign address of IPv6", addr("eth2", "fd00:2::77/128"), false},
		{"an address of ours", addr("eth1", "10.0.1.77/32"), true},
		{"an address of IPv6", addr("eth1", "fd00:1::77/128"), true},
		{"a pod's rule", podRule, false},
		{"its end", podRuleOver, false},
		{"a rule that we add", ourRule, false},
		{"its end", ourRuleOver, true},
		{"a rule that names our link", named, true},
		{"its end", namedOver, true},
		{"a rule that names another", other, false},
		{"its end", otherOver, false},
		{"a link", func() { must(t, m.SetMTU(m.Index["eth5"], 1400)) }, true},
	} {
		if got := heard(t, events, c.f); got != c.want {
			t.Errorf("%s: heard of: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestManyForeignRoutes: a router's routes wake nobody and cost little. A change that
// matters is heard of at once behind them.
func TestManyForeignRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := linktest.NewLinks(t)
	ours, err := m.ByName("eth1")
	must(t, err)
	const n = 10_000
	cpu := func() time.Duration {
		var u unix.Rusage
		must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	storm := func(second byte) time.Duration {
		before := cpu()
		for i := range n {
			r := &netlink.Route{LinkIndex: m.Index["eth2"], Dst: &net.IPNet{IP: net.IPv4(11, second, byte(i>>8), byte(i)).To4(), Mask: net.CIDRMask(32, 32)}}
			if err := netlink.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
				t.Fatal(err)
			}
		}
		return cpu() - before
	}
	alone := storm(1)
	interest := &events.Interest{}
	interest.Set([]link.Link{ours})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, err := interest.Subscribe(ctx)
	must(t, err)
	quiet(events)
	var with time.Duration
	if heard(t, events, func() { with = storm(2) }) {
		t.Errorf("%d foreign routes were heard of", n)
	}
	t.Logf("%d foreign routes: CPU of adding them %v, with a subscriber %v", n, alone, with)
	if !heard(t, events, func() {
		must(t, m.EnsureRoute(ours.Index, routing.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.1.1")}))
	}) {
		t.Error("a default route on our own link was not heard of")
	}
	if heard(t, events, func() {}) {
		t.Error("one route was heard of twice")
	}
}

func TestSubscribe(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	changes, err := new(events.Interest).Subscribe(ctx)
	must(t, err)
	uevents, err := events.SubscribeUevents(ctx)
	must(t, err)
	node(t, linktest.ENI1)
	for name, ch := range map[string]<-chan struct{}{"link": changes, "uevent": uevents} {
		select {
		case <-ch:
		case <-ctx.Done():
			t.Errorf("no %s event for a new veth", name)
		}
	}
	cancel()
	for range changes { // ends only when the subscription closes it
	}
	for range uevents {
	}
}
