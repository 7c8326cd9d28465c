package routing_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// marked tests ForeignUse on the links of a node.
type marked struct{ linktest.Links }

func newMarked(t *testing.T) marked { return marked{linktest.NewLinks(t)} }

func (m marked) want(want map[string]string) {
	m.T.Helper()
	use, err := m.ForeignUse()
	must(m.T, err)
	got := map[string]string{}
	for name, index := range m.Index {
		if why, ok := use[index]; ok {
			got[name] = why
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		m.T.Errorf("foreign use (-want +got):\n%s", diff)
	}
}

// TestForeignUse: the node's own routes and rules are no mark; the VPC CNI's and people make on their ENIs is.
func TestForeignUse(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	gw := netip.MustParseAddr("10.0.1.1")
	must(t, m.EnsureRoute(m.Index["eth1"], routing.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: gw}))
	must(t, m.EnsureRoute(m.Index["eth1"], routing.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Gateway: gw, Table: 253}))
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Mark = 1024, 0x80 })
	m.want(nil)

	// An ENI of the VPC CNI: a table of its own, a rule per pod.
	must(t, m.EnsureRoute(m.Index["eth2"], routing.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.2.1"), Table: 3}))
	must(t, m.EnsureRoute(m.Index["eth3"], routing.Route{Dst: netip.MustParsePrefix("fd09::/64"), Gateway: netip.MustParseAddr("fd00:3::1"), Table: 1004}))
	want := map[string]string{"eth2": "route table 3 leads out of it", "eth3": "route table 1004 leads out of it"}
	m.want(want)
	pods := m.Rule(func(r *netlink.Rule) {
		r.Priority, r.Table, r.Src = 1536, 3, &net.IPNet{IP: net.IPv4(10, 0, 2, 77).To4(), Mask: net.CIDRMask(32, 32)}
	})
	m.want(want) // pods come and go, and the sentence stays
	must(t, netlink.RuleDel(pods))

	// Of several tables the lowest is named.
	must(t, m.EnsureRoute(m.Index["eth3"], routing.Route{Dst: netip.MustParsePrefix("10.7.0.0/16"), Gateway: netip.MustParseAddr("10.0.3.1"), Table: 17}))
	want["eth3"] = "route table 17 leads out of it"

	// A child, and rules by name, of IPv6 too.
	must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: child("mv0", m.Index["eth4"]), Mode: netlink.MACVLAN_MODE_BRIDGE}))
	want["eth4"] = "a link of kind macvlan lies on top of it"
	m.want(want)
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Table, r.IifName = 30, 100, "eth5" })
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Table, r.IifName = 20, 100, "eth5" })
	m.Rule(func(r *netlink.Rule) { r.Family, r.Priority, r.OifName = netlink.FAMILY_V6, 40, "eth6" })
	want["eth5"] = "the policy rule of priority 20 names it (iif eth5)"
	want["eth6"] = "the policy rule of priority 40 names it (oif eth6)"
	m.want(want)
}

// TestNetworkManagersUse: a network manager that configures a link does not make it somebody else's. An ENI of the VPC
// CNI stays the VPC CNI's on any network card, also if the manager has configured it too.
func TestNetworkManagersUse(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	table := func(name string, table int, protocol int) {
		t.Helper()
		gw := fmt.Sprintf("10.0.%s.1", name[3:])
		m.learn(name, "0.0.0.0/0", gw, protocol, func(r *netlink.Route) { r.Table = table })
	}
	// EKS AL2023 at boot: DHCP in the main table and in 10001, and a rule to that.
	m.learn("eth1", "0.0.0.0/0", "10.0.1.1", unix.RTPROT_DHCP, func(r *netlink.Route) { r.Priority = 512 })
	table("eth1", 10001, unix.RTPROT_DHCP)
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Table, r.Src = 32765, 10001, dst("10.0.1.15/32") })
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Table, r.IifName = 32764, 10001, "eth1" })
	table("eth2", 77, unix.RTPROT_STATIC)
	m.learn("eth2", "fd77::/64", "fd00:2::1", unix.RTPROT_RA, func(r *netlink.Route) { r.Table = 78 })
	table("eth3", 10003, unix.RTPROT_BOOT)
	m.want(nil)
	table("eth3", 4, unix.RTPROT_BOOT)     // the VPC CNI on the first network card
	table("eth4", 10104, unix.RTPROT_BOOT) // and on the second
	table("eth4", 10004, unix.RTPROT_DHCP)
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Table, r.OifName = 30, 100, "eth5" })
	m.want(map[string]string{
		"eth3": "route table 4 leads out of it", "eth4": "route table 10104 leads out of it", "eth5": "the policy rule of priority 30 names it (oif eth5)",
	})
}

// TestForeignUseAsNextHopAndPort: a link counts as one of several next hops, by an altname, and as the port of another
// link. A child in a pod's netns does not count: that is a delegate's.
func TestForeignUseAsNextHopAndPort(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMarked(t)
	_, in := pod(t, "pod")
	ns, err := link.OpenNetns("/run/netns/pod")
	must(t, err)
	defer ns.Close()
	must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: child("mv1", m.Index["eth1"]), Mode: netlink.MACVLAN_MODE_BRIDGE}))
	moved, err := m.ByName("mv1")
	must(t, err)
	must(t, m.Move(moved.Index, ns, "net1"))
	if _, err := in.ByName("net1"); err != nil {
		t.Fatal(err)
	}
	must(t, netlink.RouteAdd(&netlink.Route{Dst: dst("10.6.0.0/16"), Table: 50, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: m.Index["eth2"], Gw: net.IPv4(10, 0, 2, 1)}, {LinkIndex: m.Index["eth3"], Gw: net.IPv4(10, 0, 3, 1)},
	}}))
	br := netlink.NewLinkAttrs()
	br.Name = "br0"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: br}))
	bridge, err := m.ByName("br0")
	must(t, err)
	must(t, netlink.LinkSetMasterByIndex(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: m.Index["eth4"]}}, bridge.Index))
	must(t, netlink.LinkAddAltName(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: m.Index["eth5"]}}, "enp5s0"))
	m.Rule(func(r *netlink.Rule) { r.Priority, r.Table, r.IifName = 10, 100, "enp5s0" })
	m.want(map[string]string{
		"eth2": "route table 50 leads out of it",
		"eth3": "route table 50 leads out of it",
		"eth4": "it is a port of bridge br0",
		"eth5": "the policy rule of priority 10 names it (iif enp5s0)",
	})
}

func child(name string, parent int) netlink.LinkAttrs {
	la := netlink.NewLinkAttrs()
	la.Name, la.ParentIndex = name, parent
	return la
}
