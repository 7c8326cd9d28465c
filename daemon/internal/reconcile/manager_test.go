package reconcile

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/events"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// managedNode has links of the real kernel, and a network manager that acts at random on all of them.
type managedNode struct {
	*testNode
	host   *link.Handle
	index  []int
	rnd    *rand.Rand
	story  []string
	shared map[int]*nodestate.Record
}

func newManaged(t *testing.T, enis int) *managedNode {
	t.Helper()
	n := &managedNode{testNode: newNode(t), index: make([]int, enis), shared: map[int]*nodestate.Record{}}
	node, err := nstest.NewNode(t.TempDir())
	n.must(err)
	n.host, err = link.Open()
	n.must(err)
	t.Cleanup(n.host.Close)
	for e := range enis {
		n.must(node.Attach(nstest.ENI{PCI: pci(e).String(), Name: ifname(e), MAC: mac(e).String()}))
		l, err := n.host.ByName(ifname(e))
		n.must(err)
		n.index[e] = l.Index
		n.imds.enis[e] = vpc.ENI{
			ID: eniID(e), MAC: mac(e), DeviceIndex: e, SubnetID: subnet(e), Primary: e == 0, SubnetCIDR: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", e)),
			Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.0.%d.15/24", e)), netip.MustParsePrefix(fmt.Sprintf("10.0.%d.16/24", e))},
		}
	}
	n.must(n.host.SetUp(n.index[0]))
	n.must(n.startWith(func(o *Options) {
		o.Host, o.PCI, o.IPv6, o.Interest, o.SourceRouting = n.host, sysfs.NewFS(node.Sysfs), link.DefaultIPv6Conf, &events.Interest{}, true
	}))
	return n
}

func ipNetOf(text string) *net.IPNet {
	p := netip.MustParsePrefix(text)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// route adds a route. The kernel may refuse it beside another one.
func (n *managedNode) route(e int, to string, protocol, metric, table int) error {
	r := &netlink.Route{LinkIndex: n.index[e], Dst: ipNetOf(to), Protocol: netlink.RouteProtocol(protocol), Priority: metric, Table: table}
	if r.Dst.IP.To4() != nil {
		r.Scope = netlink.SCOPE_LINK
	}
	return netlink.RouteAdd(r)
}

// mainRoutes returns the main table's routes by ENI e, or all for -1, without the kernel's own.
func (n *managedNode) mainRoutes(e int) (all []netlink.Route) {
	n.Helper()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		some, err := netlink.RouteListFiltered(family, &netlink.Route{}, 0)
		n.must(err)
		for _, r := range some {
			if r.Protocol != unix.RTPROT_KERNEL && (e < 0 || r.LinkIndex == n.index[e]) {
				all = append(all, r)
			}
		}
	}
	return all
}

func (n *managedNode) ourRules() (all []netlink.Rule) {
	n.Helper()
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	n.must(err)
	return slices.DeleteFunc(rules, func(r netlink.Rule) bool { return r.Protocol != routing.SourceProtocol })
}

func (n *managedNode) happen() {
	n.Helper()
	e, protocol := n.rnd.IntN(len(n.index)), []int{unix.RTPROT_DHCP, unix.RTPROT_RA, unix.RTPROT_STATIC, unix.RTPROT_BOOT}[n.rnd.IntN(4)]
	metric := 100 * (1 + n.rnd.IntN(3))
	to := []string{"0.0.0.0/0", "::/0", fmt.Sprintf("10.%d.0.0/16", 9+e), fmt.Sprintf("2001:db8:%d::/48", e)}[n.rnd.IntN(4)]
	did := ""
	switch act := n.rnd.IntN(12); {
	case act < 6:
		did = fmt.Sprintf("route %s of protocol %d, metric %d on ENI %d: %v", to, protocol, metric, e, n.route(e, to, protocol, metric, 0))
	case act == 6:
		single := fmt.Sprintf("10.0.%d.%d/32", e, 15+n.rnd.IntN(3))
		did = fmt.Sprintf("address %s on ENI %d: %v", single, e, netlink.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: n.index[e]}},
			&netlink.Addr{IPNet: ipNetOf(single)}))
	case act == 7:
		for _, r := range n.ourRules() {
			n.must(netlink.RuleDel(&r))
		}
		did = "our rules are flushed"
	case act == 8:
		did = fmt.Sprintf("accept_ra of ENI %d is reset: %v", e, link.DefaultIPv6Conf.SetAcceptRA(ifname(e), "1"))
	case act == 9:
		all := n.mainRoutes(0)
		for _, r := range all[:min(len(all), 2)] {
			n.must(netlink.RouteDel(&r))
		}
		did = fmt.Sprintf("%d routes of the primary ENI are withdrawn", min(len(all), 2))
	case act == 10 && e > 0 && n.shared[e] == nil:
		n.shared[e] = n.share(e, fmt.Sprintf("10.0.%d.16", e))
		did = fmt.Sprintf("a pod shares ENI %d", e)
	case act == 11 && n.shared[e] != nil:
		n.must(n.shared[e].Remove())
		l, err := leases.Dir(n.path("leases")).Lock(n.Context(), n.boot, eniID(e))
		n.must(err)
		l.Leases.Leases = nil
		n.must(l.Save())
		l.Close()
		delete(n.shared, e)
		did = fmt.Sprintf("the pod of ENI %d ends", e)
	}
	n.story = append(n.story, did)
}

// waysOut are the families with a default route that somebody has chosen.
func (n *managedNode) waysOut() map[int]bool {
	n.Helper()
	all, err := n.host.DefaultRoutes()
	n.must(err)
	out := map[int]bool{}
	for _, r := range all {
		out[r.Family] = out[r.Family] || r.Protocol != unix.RTPROT_RA
	}
	return out
}

// want checks the node at rest. before are the primary ENI's routes; ways are the families that had a way out.
func (n *managedNode) want(before []string, ways map[int]bool) {
	n.Helper()
	wrong := func(format string, args ...any) {
		n.Helper()
		n.Fatalf("%s\nafter: %s", fmt.Sprintf(format, args...), strings.Join(n.story, "; "))
	}
	if got := n.left(0); !slices.Equal(got, before) {
		wrong("the primary ENI has %q, it had %q", got, before)
	}
	defaults, err := n.host.DefaultRoutes()
	n.must(err)
	for family, had := range ways {
		if had && !slices.ContainsFunc(defaults, func(r routing.DefaultRoute) bool { return r.Family == family }) {
			wrong("the node had a default route of family %d, and has none any more", family)
		}
	}
	for e := 1; e < len(n.index); e++ {
		for _, r := range n.mainRoutes(e) {
			family := netlink.FAMILY_V4
			if r.Dst != nil && r.Dst.IP.To4() == nil || r.Dst == nil && r.Family == netlink.FAMILY_V6 {
				family = netlink.FAMILY_V6
			}
			only, needed := defaults.Only(n.index[e])
			for f := range map[int]bool{netlink.FAMILY_V4: true, netlink.FAMILY_V6: true} {
				own := slices.DeleteFunc(slices.Clone(defaults), func(d routing.DefaultRoute) bool { return d.Family != f })
				if o, is := own.Only(n.index[e]); is && f == family {
					only, needed = o, is
				}
			}
			ones, _ := r.Dst.Mask.Size()
			clutter := ones == 0 || r.Protocol == unix.RTPROT_DHCP || r.Protocol == unix.RTPROT_RA
			if clutter && (!needed || only.Family != family) {
				wrong("ENI %d has the route %s", e, r)
			}
		}
		if value, err := link.DefaultIPv6Conf.AcceptRA(ifname(e)); err != nil || value != "0" {
			wrong("accept_ra of ENI %d is %q, %v", e, value, err)
		}
		addrs, err := n.host.Addresses(n.index[e])
		n.must(err)
		if n.shared[e] != nil && !defaults.OnlyBy(n.index[e]) && slices.Contains(addrs, netip.MustParsePrefix(fmt.Sprintf("10.0.%d.16/32", e))) {
			wrong("the host has the address of the pod that shares ENI %d", e)
		}
	}
	if got, want := len(n.ourRules()), 2*(len(n.index)-1); got != want {
		wrong("%d rules of source-based routing, want %d", got, want)
	}
}

func (n *managedNode) left(e int) (out []string) {
	n.Helper()
	for _, r := range n.mainRoutes(e) {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return out
}

// At rest, idle and shared ENIs have only the default and learned routes that are the node's only way out. The primary
// ENI is untouched, and nothing is rewritten.
func TestNetworkManagerSequences(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n := newManaged(t, 4)
	for e := 1; e < 4; e++ {
		n.declare(string(rune('a'+e)), e)
	}
	n.settle()
	time.Sleep(3 * time.Second) // the kernel's own IPv6 addresses have come
	sequences := 150
	if testing.Short() {
		sequences = 15
	}
	for seed := range sequences {
		n.rnd, n.story = rand.New(rand.NewPCG(uint64(seed), 18)), []string{fmt.Sprintf("seed %d", seed)}
		for range 3 + n.rnd.IntN(10) {
			n.happen()
			if n.rnd.IntN(3) == 0 {
				n.syncAfter(time.Second)
			}
		}
		before, ways := n.left(0), n.waysOut()
		n.story = append(n.story, fmt.Sprint("main table: ", n.left(-1)))
		n.syncAfter(time.Second)
		n.want(before, ways)
		events, err := new(events.Interest).Subscribe(t.Context())
		n.must(err)
		for range 3 {
			n.syncAfter(time.Second)
		}
		select {
		case <-events:
			t.Fatalf("something was rewritten at rest after: %s", strings.Join(n.story, "; "))
		case <-time.After(time.Millisecond):
		}
		n.want(before, ways)
	}
}

// On EKS AL2023 networkd configures the ENIs that are there at boot, by DHCP. Where others attach ENIs, such an ENI is
// ready after 30 s without marks; one with a table of the VPC CNI stays the VPC CNI's.
func TestManagedENIAtBoot(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n := newManaged(t, 3)
	for e := range 3 {
		n.must(n.host.SetUp(n.index[e]))
		n.must(n.host.EnsureAddress(n.index[e], netip.MustParsePrefix(fmt.Sprintf("10.0.%d.15/24", e))))
		n.must(n.route(e, "0.0.0.0/0", unix.RTPROT_DHCP, 512+e, 0))
		n.must(n.route(e, "0.0.0.0/0", unix.RTPROT_DHCP, 0, 10000+e))
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.Src = netlink.FAMILY_V4, 32765, 10000+e, ipNetOf(fmt.Sprintf("10.0.%d.15/32", e))
		n.must(netlink.RuleAdd(r))
	}
	n.must(n.route(2, "0.0.0.0/0", unix.RTPROT_BOOT, 0, 3))
	n.declare("a", 1)
	n.declare("b", 2)
	n.daemon.NodeENIs = guarded{n.daemon.NodeENIs}
	n.sync()
	n.expect([]string{"a  pending", "b  pending"}, []string{"ForeignENI"}, nil)
	n.pass(29 * time.Second)
	n.expect([]string{"a  pending", "b  pending"}, []string{"ForeignENI"}, nil)
	n.pass(3 * time.Second)
	n.expect([]string{"a eth1 ready", "b  pending"}, []string{"HostAddress", "ForeignENI"}, nil)
	if got := n.left(1); len(got) != 0 {
		t.Errorf("routes of the ENI that is ours: %q", got)
	}
	if len(n.left(0)) != 1 || len(n.left(2)) != 1 {
		t.Errorf("routes of the primary ENI %q, of somebody else's %q; want both", n.left(0), n.left(2))
	}
	got := ""
	for _, p := range n.inventory().Problems {
		got += p.Message + "\n"
	}
	for _, want := range []string{"route table 3 leads out of it", "10.0.1.15/24 (put there with routes of protocol dhcp"} {
		if !strings.Contains(got, want) {
			t.Errorf("problems say\n%s, want %q in it", got, want)
		}
	}
}
