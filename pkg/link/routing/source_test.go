package routing_test

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
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// ours are the rules and routes of source-based routing, sorted.
func ours(t *testing.T) (out []string) {
	t.Helper()
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range rules {
		if r.Protocol == routing.SourceProtocol {
			out = append(out, fmt.Sprintf("rule %d from %s table +%d", r.Priority, r.Src, r.Table-20000))
		}
	}
	const filter = netlink.RT_FILTER_PROTOCOL | netlink.RT_FILTER_TABLE
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routing.SourceProtocol}, filter)
	must(t, err)
	for _, r := range routes {
		if r.Table == unix.RT_TABLE_MAIN {
			t.Errorf("in the main table: %s", r)
		}
	}
	routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routing.SourceProtocol, Table: unix.RT_TABLE_UNSPEC}, filter)
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

// sourceNode has a primary ENI and two more in one subnet, with strict rp_filter.
func sourceNode(t *testing.T) (n *nstest.Node, h *link.Handle, index map[string]int) {
	t.Helper()
	n = node(t,
		nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: "02:00:00:00:00:00"},
		nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"},
		nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"})
	for _, a := range []string{"10.0.2.1/24", "fd00:2::1/64", "172.16.0.1/32", "2001:db8::1/128"} {
		must(t, n.AddPeerAddress(a))
	}
	h = open(t)
	index = map[string]int{}
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
	return n, h, index
}

// leaveBy checks that traffic from each address leaves by its link.
func leaveBy(t *testing.T, index map[string]int) {
	t.Helper()
	for from, by := range map[string]string{
		"10.0.2.5": "eth0", "10.0.2.15": "eth1", "10.0.2.25": "eth2", "10.0.2.26": "eth2", "fd00:2::15": "eth1", "fd00:2::25": "eth2",
	} {
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
}

// sourceLines are the rules and routes of two ENIs in one subnet, as ours returns them.
func sourceLines(e1, e2 int) []string {
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
	return all
}

// TestSources: with two ENIs in one subnet, beside a primary one with the default
// route, answers leave by the link that was asked, also where rp_filter is strict.
func TestSources(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n, h, index := sourceNode(t)
	must(t, h.EnsureRoute(index["eth0"], routing.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.2.1")}))
	// A router of IPv6 announces itself.
	must(t, h.EnsureRoute(index["eth2"], routing.Route{Dst: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1")}))
	foreign := netlink.NewRule()
	foreign.Src, foreign.Table, foreign.Priority = &net.IPNet{IP: net.IPv4(10, 9, 9, 9), Mask: net.CIDRMask(32, 32)}, 99, 1536
	must(t, netlink.RuleAdd(foreign))

	before, err := h.ForeignUse()
	must(t, err)
	want := []routing.Source{
		{
			Index: index["eth1"], From: prefixesOf("10.0.2.15/32", "fd00:2::15/128"), Subnets: prefixesOf("10.0.2.0/24", "fd00:2::/64"),
			Routers: []netip.Addr{netip.MustParseAddr("10.0.2.1"), netip.MustParseAddr("fd00:2::1")},
		},
		{
			Index: index["eth2"], From: prefixesOf("10.0.2.25/32", "10.0.2.26/32", "fd00:2::25/128", "10.0.2.32/28"),
			Subnets: prefixesOf("10.0.2.0/24", "10.0.2.0/24", "fd00:2::/64"), Routers: []netip.Addr{netip.MustParseAddr("10.0.2.1")},
		},
	}
	ensure := func(want []routing.Source, changes bool) {
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
	all := sourceLines(e1, e2)
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

	leaveBy(t, index)
	for _, asked := range []string{"10.0.2.15", "10.0.2.25", "fd00:2::15"} {
		if answer := ask(t, n, asked, 20); answer != "pong" {
			t.Errorf("asked %s from beyond its subnet: %q", asked, answer)
		}
	}

	// One ENI is gone: its rules and routes go, and nothing else.
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

// TestSourcesBesideVPCCNI: the Amazon VPC CNI's rules and tables, as it makes them on a node (docs of
// amazon-vpc-cni-k8s; rules of networkutils), keep their traffic: to and from its pods, and marked answers. Traffic
// from our ENI's addresses is ours.
func TestSourcesBesideVPCCNI(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n := node(t,
		nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: "02:00:00:00:00:00"},
		nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"}, // of the VPC CNI
		nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"}) // of a NodeENI
	must(t, n.AddPeerAddress("10.0.2.1/24"))
	h := open(t)
	index := map[string]int{}
	for name, a := range map[string]string{"eth0": "10.0.2.5/24", "eth1": "10.0.2.15/24", "eth2": "10.0.2.25/24"} {
		l, err := h.ByName(name)
		must(t, err)
		index[name] = l.Index
		must(t, h.SetUp(l.Index))
		must(t, h.EnsureAddress(l.Index, netip.MustParsePrefix(a)))
	}
	must(t, h.EnsureRoute(index["eth0"], routing.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.2.1")}))
	pod := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eni0123456789a"}, PeerName: "pod"} // the host has its end
	must(t, netlink.LinkAdd(pod))
	must(t, netlink.LinkSetUp(pod))
	const podIP, mark = "10.0.2.16", 0x80
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: pod.Index, Dst: host(podIP), Scope: netlink.SCOPE_LINK}))
	must(t, netlink.RouteAdd(&netlink.Route{
		LinkIndex: index["eth1"], Gw: net.ParseIP("10.0.2.1"), Dst: dst("0.0.0.0/0"), Table: 2, Flags: int(netlink.FLAG_ONLINK),
	}))
	mask := uint32(mark)
	theirs := []netlink.Rule{*netlink.NewRule(), *netlink.NewRule(), *netlink.NewRule()}
	theirs[0].Priority, theirs[0].Dst, theirs[0].Table = 512, host(podIP), unix.RT_TABLE_MAIN
	theirs[1].Priority, theirs[1].Mark, theirs[1].Mask, theirs[1].Table = 1024, mark, &mask, unix.RT_TABLE_MAIN
	theirs[2].Priority, theirs[2].Src, theirs[2].Table = 1536, host(podIP), 2
	for _, r := range theirs {
		must(t, netlink.RuleAdd(&r))
	}
	before := foreignRules(t)
	want := []routing.Source{{
		Index: index["eth2"], From: prefixesOf("10.0.2.25/32", "10.0.2.32/28"), Subnets: prefixesOf("10.0.2.0/24"),
		Routers: []netip.Addr{netip.MustParseAddr("10.0.2.1")},
	}}
	_, err := h.EnsureSources(want)
	must(t, err)
	for _, tt := range []struct {
		what, from, to string
		mark           uint32
		by             int
	}{
		{"from our address", "10.0.2.25", "172.16.0.1", 0, index["eth2"]},
		{"from our address to a neighbour", "10.0.2.25", "10.0.2.77", 0, index["eth2"]},
		{"from our address to their pod", "10.0.2.25", podIP, 0, pod.Index},
		{"a marked answer from our address", "10.0.2.25", "172.16.0.1", mark, index["eth0"]},
		{"from the node", "10.0.2.5", "172.16.0.1", 0, index["eth0"]},
		{"from no address yet", "", "172.16.0.1", 0, index["eth0"]},
	} {
		options := &netlink.RouteGetOptions{Mark: tt.mark}
		if tt.from != "" {
			options.SrcAddr = net.ParseIP(tt.from)
		}
		routes, err := netlink.RouteGetWithOptions(net.ParseIP(tt.to), options)
		if err != nil || len(routes) == 0 || routes[0].LinkIndex != tt.by {
			t.Errorf("%s: %v, %v; want by link %d", tt.what, routes, err, tt.by)
		}
	}
	// Traffic forwarded from their pod, and from ours in ipvlan's mode l3, comes in by a link.
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	routes, err := netlink.RouteGetWithOptions(net.ParseIP("172.16.0.1"), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(podIP), Iif: pod.Name})
	if err != nil || len(routes) == 0 || routes[0].LinkIndex != index["eth1"] {
		t.Errorf("from their pod: %v, %v; want by eth1", routes, err)
	}
	_, err = h.EnsureSources(nil)
	must(t, err)
	if got := ours(t); got != nil || foreignRules(t) != before {
		t.Errorf("left of ours %q, and of others %d rules, before %d", got, foreignRules(t), before)
	}
}

// foreignRules counts the IPv4 rules that are not ours.
func foreignRules(t *testing.T) (all int) {
	t.Helper()
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	must(t, err)
	for _, r := range rules {
		if r.Protocol != routing.SourceProtocol {
			all++
		}
	}
	return all
}

func host(a string) *net.IPNet { return &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(32, 32)} }

func mustNetns(t *testing.T, path string) *link.Netns {
	t.Helper()
	must(t, nstest.NewNetns(path))
	ns, err := link.OpenNetns(path)
	must(t, err)
	t.Cleanup(ns.Close)
	return ns
}

// ask sends a datagram to an address of the host from 172.16.0.1 or 2001:db8::1 in the VPC, and returns the answer.
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

// TestSourceWithoutAnnouncements: a link that has never heard of a router sends by the VPC's.
func TestSourceWithoutAnnouncements(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	want := []routing.Source{{Index: m.Index["eth1"], From: prefixesOf("fd00:1::15/128"), Subnets: prefixesOf("fd00:1::/64")}}
	for _, changes := range []bool{true, false} {
		if changed, err := m.EnsureSources(want); err != nil || changed != changes {
			t.Fatalf("EnsureSources: changed %v, %v; want %v", changed, err, changes)
		}
	}
	router := fmt.Sprintf("route default via fe80:ec2::1 table +%d", m.Index["eth1"])
	if got := ours(t); !slices.Contains(got, router) {
		t.Errorf("rules and routes %q, want %q", got, router)
	}
}
