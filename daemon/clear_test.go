package main

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/events"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// intruder puts things on links as the host's network manager does.
type intruder struct {
	*machine
	host  *link.Handle
	index map[string]int
}

func (m *machine) intruder(names ...string) *intruder {
	m.Helper()
	h, err := link.Open()
	must(m, err)
	m.Cleanup(h.Close)
	i := &intruder{machine: m, host: h, index: map[string]int{}}
	for _, name := range names {
		l, err := h.ByName(name)
		must(m, err)
		i.index[name] = l.Index
	}
	return i
}

func (i *intruder) add(name, to string, protocol, metric int) {
	i.Helper()
	must(i, netlink.RouteAdd(&netlink.Route{LinkIndex: i.index[name], Dst: linktest.Dst(to), Protocol: netlink.RouteProtocol(protocol), Priority: metric,
		Scope: netlink.SCOPE_LINK}))
}

// routes counts the link's routes in the main table, except the kernel's own.
func (i *intruder) routes(name string) (n int) {
	i.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: i.index[name]}, netlink.RT_FILTER_OIF)
		must(i, err)
		for _, r := range all {
			if r.Protocol != unix.RTPROT_KERNEL {
				n++
			}
		}
	}
	return n
}

// gone waits until the link has no such route, and returns the time that it took.
func (i *intruder) gone(name string) time.Duration {
	i.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		if i.routes(name) == 0 {
			return time.Since(begin)
		}
		if time.Since(begin) > 20*time.Second {
			i.Fatalf("routes stay on %s\n%s", name, i.stderr.String())
		}
	}
}

func percentiles(d []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*99/100]
}

// acceptRA reads the setting of the link, and sets it where value is not "".
func (i *intruder) acceptRA(name, value string) string {
	i.Helper()
	if value != "" {
		must(i, link.DefaultIPv6Conf.SetAcceptRA(name, value))
	}
	got, err := link.DefaultIPv6Conf.AcceptRA(name)
	must(i, err)
	return got
}

// TestForeignRoutesAreGoneSoon: routes that others put on an idle ENI are gone soon after the kernel's event, also while IMDS is slow, with
// one log line for each kind; the primary ENI's stay, and at rest nothing is rewritten.
func TestForeignRoutesAreGoneSoon(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	m.declare("a", 1)
	m.start()
	m.until("a ready")
	i := m.intruder("eth0", "eth1")
	must(m, i.host.SetUp(i.index["eth0"]))
	i.add("eth0", "0.0.0.0/0", unix.RTPROT_DHCP, 512)
	i.add("eth0", "::/0", unix.RTPROT_RA, 512)
	primary := i.routes("eth0")
	if got := i.acceptRA("eth1", ""); got != "0" {
		t.Errorf("accept_ra of the idle ENI is %s", got)
	}
	if got := i.acceptRA("eth0", ""); got == "0" {
		t.Error("accept_ra of the primary ENI was changed")
	}
	kinds := []func(){
		func() { i.add("eth1", "0.0.0.0/0", unix.RTPROT_DHCP, 1024) },
		func() { i.add("eth1", "0.0.0.0/0", unix.RTPROT_STATIC, 0) },
		func() { i.add("eth1", "10.9.0.0/16", unix.RTPROT_DHCP, 1024) },
		func() { i.add("eth1", "::/0", unix.RTPROT_RA, 1024) },
		func() { i.add("eth1", "2001:db8:9::/48", unix.RTPROT_RA, 1024) },
	}
	round := func(n int) (took []time.Duration) {
		for k := range n {
			kinds[k%len(kinds)]()
			took = append(took, i.gone("eth1"))
			time.Sleep(time.Duration(k%7) * 10 * time.Millisecond) // in all phases of the loop
		}
		return took
	}
	p50, p99 := percentiles(round(60))
	t.Logf("a foreign route stays for p50 %v, p99 %v", p50.Round(time.Millisecond), p99.Round(time.Millisecond))
	m.imds.Fault("", fakeimds.Fault{Delay: time.Minute})
	time.Sleep(100 * time.Millisecond)
	p50, p99 = percentiles(round(20))
	t.Logf("while IMDS hangs: p50 %v, p99 %v", p50.Round(time.Millisecond), p99.Round(time.Millisecond))

	for begin := time.Now(); ; time.Sleep(time.Millisecond) { // a change of a sysctl is no event
		i.acceptRA("eth1", "1")
		must(m, i.host.SetMTU(i.index["eth1"], 1400+int(time.Since(begin)/time.Millisecond)%2))
		time.Sleep(300 * time.Millisecond)
		if i.acceptRA("eth1", "") == "0" {
			break
		}
		if time.Since(begin) > 20*time.Second {
			t.Error("accept_ra stays 1")
			break
		}
	}
	if got := i.routes("eth0"); got != primary {
		t.Errorf("the primary ENI has %d routes, it had %d", got, primary)
	}
	i.rest(2 * time.Second)
	m.end()
	for _, by := range []string{"dhcp", "static", "ra"} {
		if n := m.logged("others put routes", "by="+by); n != 1 {
			t.Errorf("%d log lines about routes of %s, want 1\n%s", n, by, m.stderr.String())
		}
	}
}

// rest fails the test when anything is changed in that time.
func (i *intruder) rest(d time.Duration) {
	i.Helper()
	ctx, cancel := context.WithCancel(i.Context())
	defer cancel()
	events, err := new(events.Interest).Subscribe(ctx)
	must(i, err)
	for len(events) > 0 {
		<-events
	}
	before, err := os.ReadFile(i.path("run/inventory.json"))
	must(i, err)
	select {
	case <-events:
		i.Errorf("something was changed at rest\n%s", i.stderr.String())
	case <-time.After(d):
	}
	if after, err := os.ReadFile(i.path("run/inventory.json")); err != nil || string(after) != string(before) {
		i.Errorf("the inventory was rewritten at rest: %v", err)
	}
}

// TestSourceRulesComeBack: source-routing rules and routes that a network manager flushes are back at once.
func TestSourceRulesComeBack(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	m.declare("a", 1)
	m.start("--source-routing")
	m.until("a ready")
	made := func() (rules []netlink.Rule, routes []netlink.Route) {
		t.Helper()
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		must(m, err)
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routing.SourceProtocol, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		must(m, err)
		return slices.DeleteFunc(rules, func(r netlink.Rule) bool { return r.Protocol != routing.SourceProtocol }), routes
	}
	back := func() time.Duration {
		t.Helper()
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			if rules, routes := made(); len(routes) == 2 && len(rules) > 0 {
				return time.Since(begin)
			}
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("the rule or the routes stay away\n%s", m.stderr.String())
			}
		}
	}
	back()
	i := m.intruder("eth1")
	time.Sleep(2 * time.Second) // the link's own IPv6 addresses have come
	var took []time.Duration
	for k := range 20 {
		rules, routes := made()
		for _, r := range rules {
			must(m, netlink.RuleDel(&r))
		}
		for _, r := range routes[:min(k%3, len(routes))] {
			must(m, netlink.RouteDel(&r))
		}
		took = append(took, back())
	}
	p50, most := percentiles(took)
	t.Logf("flushed rules are back after p50 %v, %v at most", p50.Round(time.Millisecond), most.Round(time.Millisecond))
	i.rest(2 * time.Second)
	m.end()
}
