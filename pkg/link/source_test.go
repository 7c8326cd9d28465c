package link_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// ours are the rules and routes of source-based routing, sorted.
func ours(t *testing.T) (out []string) {
	t.Helper()
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range rules {
		if r.Protocol == link.SourceProtocol {
			out = append(out, fmt.Sprintf("rule %d from %s table +%d", r.Priority, r.Src, r.Table-20000))
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: link.SourceProtocol}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range routes {
		if r.Table == unix.RT_TABLE_MAIN {
			t.Errorf("in the main table: %s", r)
		}
	}
	routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: link.SourceProtocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	must(t, err)
	for _, r := range routes {
		dst := "default"
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			dst = r.Dst.String()
		}
		out = append(out, fmt.Sprintf("route %s via %s table +%d", dst, r.Gw, r.Table-20000))
	}
	slices.Sort(out)
	return out
}

func prefixesOf(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestSources: with two ENIs in one subnet, beside a primary one with the default
// route, answers leave by the link that was asked, also where rp_filter is strict.
func TestSources(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n := node(t,
		nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: "02:00:00:00:00:00"},
		nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"},
		nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"})
	for _, a := range []string{"10.0.2.1/24", "fd00:2::1/64", "172.16.0.1/32", "2001:db8::1/128"} {
		must(t, n.AddPeerAddress(a))
	}
	h := open(t)
	index := map[string]int{}
	has := map[string][]string{"eth0": {"10.0.2.5/24"}, "eth1": {"10.0.2.15/24", "fd00:2::15/64"}, "eth2": {"10.0.2.25/24", "10.0.2.26/24", "fd00:2::25/64"}}
	for _, name := range []string{"eth0", "eth1", "eth2"} { // the first has the subnet's route in the main table
		addresses := has[name]
		l, err := h.ByName(name)
		must(t, err)
		index[name] = l.Index
		for sysctl, value := range map[string]string{"rp_filter": "1", "arp_ignore": "1", "arp_announce": "2"} {
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/"+sysctl, []byte(value), 0o644))
		}
		must(t, h.SetUp(l.Index))
		for _, a := range addresses {
			must(t, h.EnsureAddress(l.Index, netip.MustParsePrefix(a)))
		}
	}
	must(t, h.EnsureRoute(index["eth0"], link.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.2.1")}))
	// A router of IPv6 announces itself.
	must(t, h.EnsureRoute(index["eth2"], link.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1")}))
	foreign := netlink.NewRule()
	foreign.Src, foreign.Table, foreign.Priority = &net.IPNet{IP: net.IPv4(10, 9, 9, 9), Mask: net.CIDRMask(32, 32)}, 99, 1536
	must(t, netlink.RuleAdd(foreign))

	before, err := h.ForeignUse()
	must(t, err)
	want := []link.Source{
		{Index: index["eth1"], From: prefixesOf("10.0.2.15/32", "fd00:2::15/128"), Subnets: prefixesOf("10.0.2.0/24", "fd00:2::/64"), Routers: []netip.Addr{netip.MustParseAddr("10.0.2.1"), netip.MustParseAddr("fd00:2::1")}},
		{Index: index["eth2"], From: prefixesOf("10.0.2.25/32", "10.0.2.26/32", "fd00:2::25/128", "10.0.2.32/28"), Subnets: prefixesOf("10.0.2.0/24", "10.0.2.0/24", "fd00:2::/64"), Routers: []netip.Addr{netip.MustParseAddr("10.0.2.1")}},
	}
	ensure := func(want []link.Source, changes bool) {
		t.Helper()
		changed, err := h.EnsureSources(want)
		if err != nil || changed != changes {
			t.Fatalf("EnsureSources: changed %v, %v; want %v", changed, err, changes)
		}
	}
	if answer := ask(t, n, "10.0.2.25", 3); answer != "" {
		t.Errorf("without source-based routing: %q", answer)
	}
	ensure(want, true)
	ensure(want, false)
	e1, e2 := index["eth1"], index["eth2"]
	all := []string{
		fmt.Sprintf("route 10.0.2.0/24 via <nil> table +%d", e1), fmt.Sprintf("route 10.0.2.0/24 via <nil> table +%d", e2),
		fmt.Sprintf("route default via 10.0.2.1 table +%d", e1), fmt.Sprintf("route default via 10.0.2.1 table +%d", e2),
		fmt.Sprintf("route default via fd00:2::1 table +%d", e1), fmt.Sprintf("route default via fe80::1 table +%d", e2),
		fmt.Sprintf("route fd00:2::/64 via <nil> table +%d", e1), fmt.Sprintf("route fd00:2::/64 via <nil> table +%d", e2),
		fmt.Sprintf("rule 1400 from 10.0.2.15/32 table +%d", e1), fmt.Sprintf("rule 1400 from 10.0.2.25/32 table +%d", e2),
		fmt.Sprintf("rule 1400 from 10.0.2.26/32 table +%d", e2), fmt.Sprintf("rule 1400 from 10.0.2.32/28 table +%d", e2),
		fmt.Sprintf("rule 1400 from fd00:2::15/128 table +%d", e1), fmt.Sprintf("rule 1400 from fd00:2::25/128 table +%d", e2),
	}
	slices.Sort(all)
	if got := ours(t); !slices.Equal(got, all) {
		t.Errorf("rules and routes\n%q, want\n%q", got, all)
	}
	after, err := h.ForeignUse()
	must(t, err)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("our own routes look like somebody else's: %v, before %v", after, before)
	}

	// The router of IPv6 stays known when the main table has lost it.
	_, err = h.RemoveDefaultRoutes(e2)
	must(t, err)
	ensure(want, false)

	for from, by := range map[string]string{"10.0.2.5": "eth0", "10.0.2.15": "eth1", "10.0.2.25": "eth2", "10.0.2.26": "eth2", "fd00:2::15": "eth1", "fd00:2::25": "eth2"} {
		for _, to := range []string{"172.16.0.1", "10.0.2.1", "2001:db8::1", "fd00:2::1"} {
			if netip.MustParseAddr(to).Is4() != netip.MustParseAddr(from).Is4() {
				continue
			}
			routes, err := netlink.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
			if err != nil || len(routes) == 0 || routes[0].LinkIndex != index[by] {
				t.Errorf("from %s to %s: %v, %v; want by %s (%d)", from, to, routes, err, by, index[by])
			}
		}
	}
	for _, asked := range []string{"10.0.2.15", "10.0.2.25", "fd00:2::15"} {
		if answer := ask(t, n, asked, 20); answer != "pong" {
			t.Errorf("asked %s from beyond its subnet: %q", asked, answer)
		}
	}

	// One ENI is gone: what was its goes, and nothing else.
	must(t, h.Move(e2, mustNetns(t, "/run/netns/elsewhere"), "eth2"))
	ensure(want[:1], true)
	if got := ours(t); len(got) != 6 || slices.ContainsFunc(got, func(s string) bool { return !slices.Contains(all, s) }) {
		t.Errorf("after eth2 has gone: %q", got)
	}
	if _, err := h.EnsureSources(want); err == nil {
		t.Error("a link that is gone is no error")
	}
	ensure(nil, true)
	ensure(nil, false)
	if got := ours(t); got != nil {
		t.Errorf("left: %q", got)
	}
	rules, err := netlink.RuleListFiltered(netlink.FAMILY_V4, foreign, netlink.RT_FILTER_PRIORITY)
	if err != nil || len(rules) != 1 {
		t.Errorf("somebody else's rule: %v, %v", rules, err)
	}
}

func mustNetns(t *testing.T, path string) *link.Netns {
	t.Helper()
	must(t, nstest.NewNetns(path))
	ns, err := link.OpenNetns(path)
	must(t, err)
	t.Cleanup(ns.Close)
	return ns
}

// ask sends a datagram to an address of the host from 172.16.0.1 or 2001:db8::1
// in the VPC, and returns what comes back.
func ask(t *testing.T, n *nstest.Node, address string, tries int) string {
	t.Helper()
	to, from := netip.MustParseAddr(address), netip.MustParseAddr("172.16.0.1")
	if to.Is6() {
		from = netip.MustParseAddr("2001:db8::1")
	}
	server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
	must(t, err)
	defer server.Close()
	go func() {
		buf := make([]byte, 16)
		for {
			_, peer, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort([]byte("pong"), peer)
		}
	}()
	local, ok := server.LocalAddr().(*net.UDPAddr)
	if !ok {
		t.Fatal("not a UDP address")
	}
	answer := ""
	must(t, n.InVPC(func() error {
		client, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), local)
		if err != nil {
			return err
		}
		defer client.Close()
		buf := make([]byte, 16)
		for range tries {
			if _, err := client.Write([]byte("ping")); err != nil {
				return err
			}
			_ = client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if n, err := client.Read(buf); err == nil {
				answer = string(buf[:n])
				return nil
			}
		}
		return nil
	}))
	return answer
}
