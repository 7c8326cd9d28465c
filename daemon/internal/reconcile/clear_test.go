package reconcile

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (n *testNode) share(e int, address string) *nodestate.Record {
	n.Helper()
	id := nodestate.AttachmentID{ContainerID: fmt.Sprintf("shares%d", e), IfName: "net1"}
	rec, err := n.records().Begin(nodestate.Attachment{
		AttachmentID: id, BootID: n.boot, Mode: nodestate.ModeShared, Device: nodestate.AttachedDevice{PCIAddress: pci(e), MAC: mac(e), ENIID: eniID(e)},
	})
	n.must(err)
	rec.State = nodestate.StateComplete
	n.must(rec.Save())
	l, err := leases.Dir(n.path("leases")).Lock(n.Context(), n.boot, eniID(e))
	n.must(err)
	defer l.Close()
	l.Leases.Leases = append(l.Leases.Leases, leases.Lease{Address: netip.MustParseAddr(address), State: leases.Held, AttachmentID: id})
	n.must(l.Save())
	return rec
}

func TestClearedThoughMetadataAreSlow(t *testing.T) {
	n := settledNode(t)
	n.now = n.now.Add(metadataFresh)
	n.imds.hold = make(chan struct{})
	defer close(n.imds.hold)
	n.host.routes[1] = true
	done := make(chan struct{})
	go func() { defer close(done); n.daemon.Sync(n.Context()) }()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		n.host.mu.Lock()
		gone := !n.host.routes[1]
		n.host.mu.Unlock()
		select {
		case <-done:
			t.Fatal("the Sync has waited for IMDS first, or not at all")
		default:
		}
		if gone {
			break
		} else if time.Since(begin) > 10*time.Second {
			t.Fatal("the route stays")
		}
	}
	<-done
}

// Each renewal of a DHCP lease brings the route again.
func TestRepeatedRoutesAreLoggedOnce(t *testing.T) {
	n := settledNode(t)
	n.logged()
	var got []string
	for range 20 {
		n.host.routes[1] = true
		n.sync()
		if n.host.routes[1] {
			t.Fatal("the route stays")
		}
		got = append(got, n.logged()...)
		n.now = n.now.Add(30 * time.Minute)
	}
	if len(got) != 1 || !strings.Contains(got[0], "others put routes") {
		t.Errorf("logged %q, want one line", got)
	}
	for range 5 {
		n.sync()
		got = append(got, n.logged()...)
		n.now = n.now.Add(2 * time.Hour)
	}
	if len(got) != 2 {
		t.Errorf("logged %q, want the end too", got)
	}
	n.host.routes[1] = true
	n.sync()
	if got := n.logged(); len(got) != 1 {
		t.Errorf("logged %q when it began again, want one line", got)
	}
}

// The link stays as it is, and a link that a pod owns alone keeps its routes.
func TestSharedLinkIsCleared(t *testing.T) {
	n := settledNode(t, "mtu: 9001")
	n.share(1, "10.0.0.1")
	n.sync()
	l := n.host.links[1]
	l.Up, l.MTU = false, 1400
	n.host.links[1], n.host.changes = l, nil
	n.host.routes[1] = true
	n.sync()
	same(t, "changes", []string{"unroute eth1"}, n.host.changes)
	n.hold(1) // a record of its own for the device: nobody shares it
	n.host.routes[1] = true
	n.sync()
	if !n.host.routes[1] {
		t.Error("the route of a link was removed that a pod has alone")
	}
}

func TestHostAddress(t *testing.T) {
	n := newNode(t, 1)
	n.must(n.startWith(func(o *Options) { o.Advice = func(primary string) string { return "keep off all but " + primary } }))
	n.declare("a", 1)
	n.settle()
	n.host.addresses = []routing.HostAddress{
		{Index: 10, Prefix: netip.MustParsePrefix("10.0.0.0/16")},
		{Index: 11, Prefix: netip.MustParsePrefix("10.0.0.1/16"), Dynamic: true, Tables: []int{254, 10001}, Routes: []int{unix.RTPROT_DHCP}},
	}
	n.settle()
	n.expect([]string{"a eth1 ready"}, []string{"HostAddress"}, nil)
	got := n.inventory().Problems[0]
	const want = "the host has an address on eth1: 10.0.0.1/16 (put there with routes of protocol dhcp, table 10001); pods that share the ENI may not be " +
		"reached from the host; keep off all but eth0"
	if got.Message != want || got.Device != eniID(1).String() || got.NodeENI != "a" {
		t.Errorf("problem %+v, want the message %q", got, want)
	}
	if len(n.host.addresses) != 2 {
		t.Errorf("addresses left: %v", n.host.addresses)
	}

	// A pod that comes and goes neither ends nor begins it.
	n.logged()
	rec := n.hold(1)
	n.sync()
	n.host.addresses = n.host.addresses[:1]
	n.addLink(1, "eth1")
	n.must(rec.Remove())
	n.settle()
	if got := n.logged(); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "problem") }) {
		t.Errorf("logged %q", got)
	}
	n.settleAfter(2 * time.Minute)
	n.expect([]string{"a eth1 ready"}, nil, nil)
}

// Whenever an ENI returns from a pod, the network manager adds its addresses one by one and their routes later. That is
// one problem, which gains words but loses none.
func TestHostAddressIsSaidOnce(t *testing.T) {
	n := settledNode(t)
	one := routing.HostAddress{Index: 11, Prefix: netip.MustParsePrefix("10.0.0.1/16"), Dynamic: true}
	routed := one
	routed.Tables, routed.Routes = []int{10001}, []int{unix.RTPROT_DHCP}
	two := routing.HostAddress{Index: 11, Prefix: netip.MustParsePrefix("10.0.0.2/32")}
	said := 0
	for stay := range 30 {
		for _, addresses := range [][]routing.HostAddress{nil, {one}, {routed}, {routed, two}} {
			n.host.addresses = addresses
			n.sync()
			n.now = n.now.Add(time.Second)
		}
		if stay == 2 {
			n.logged()
		}
		rec := n.hold(1)
		n.sync()
		n.now = n.now.Add(time.Duration(stay) * time.Minute)
		n.host.addresses = nil
		n.addLink(1, "eth1")
		n.must(rec.Remove())
	}
	for _, line := range n.logged() {
		if strings.Contains(line, "problem") {
			said++
		}
	}
	if said > 0 {
		t.Errorf("%d lines of problems in 27 stays", said)
	}
	n.expect([]string{"a eth1 ready"}, []string{"HostAddress"}, nil)
}

// A /32 that a pod leases and an address from a router advertisement are removed each time. Others stay.
func TestPodsAddressIsTakenFromTheHost(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	eni := n.imds.enis[1]
	eni.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.7/16"), netip.MustParsePrefix("10.0.0.8/16")}
	n.imds.enis[1] = eni
	n.settle()
	n.share(1, "10.0.0.7")
	stays := []routing.HostAddress{
		{Index: 11, Prefix: netip.MustParsePrefix("10.0.0.7/16")},  // a network's, put there by DHCP
		{Index: 11, Prefix: netip.MustParsePrefix("10.0.0.8/32")},  // nobody's lease
		{Index: 11, Prefix: netip.MustParsePrefix("192.0.2.1/32")}, // not the ENI's
	}
	goes := []routing.HostAddress{
		{Index: 11, Prefix: netip.MustParsePrefix("10.0.0.7/32")},
		{Index: 11, Prefix: netip.MustParsePrefix("2001:db8::1/64"), Protocol: 2, Dynamic: true},
	}
	n.logged()
	var lines []string
	for range 3 {
		n.host.addresses = slices.Concat(stays, goes)
		n.settle()
		lines = append(lines, n.logged()...)
		if diff := cmp.Diff(stays, n.host.addresses, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("addresses (-want +got):\n%s", diff)
		}
	}
	removed := slices.DeleteFunc(lines, func(s string) bool { return !strings.Contains(s, "others put an address") })
	if len(removed) != len(goes) {
		t.Errorf("logged %q, want one line for each address", removed)
	}
}

// Idle links accept none whenever they return. Where that cannot be written, there is one problem and all else goes on.
func TestRouterAdvertisements(t *testing.T) {
	n := newNode(t, 1, 2)
	conf := func(e int) string { return n.path("ipv6", ifname(e), "accept_ra") }
	for e := range 3 {
		n.write("1\n", "ipv6", ifname(e), "accept_ra")
	}
	n.must(n.startWith(func(o *Options) { o.IPv6 = link.IPv6Conf(n.path("ipv6")) }))
	value := func(e int) string {
		data, err := os.ReadFile(conf(e))
		n.must(err)
		return strings.TrimSpace(string(data))
	}
	n.declare("a", 1)
	n.settle()
	if value(0) != "1" || value(1)[:1] != "0" || value(2) != "1" {
		t.Errorf("accept_ra: primary %s, declared %s, other %s; want 1, 0, 1", value(0), value(1), value(2))
	}
	n.write("1\n", "ipv6", ifname(1), "accept_ra") // as after a stay in a pod
	n.sync()
	if value(1)[:1] != "0" {
		t.Error("accept_ra is 1 again")
	}
	n.must(os.RemoveAll(conf(1)))
	n.must(os.Symlink("/proc/version", conf(1))) // which nobody can write, nor is it 0
	n.host.routes[1] = true
	n.settle()
	n.expect([]string{"a eth1 ready"}, []string{"RouterAdvertisementsAccepted"}, nil)
	if n.host.routes[1] {
		t.Error("the route stays")
	}
	if got := n.inventory().Problems[0].Message; !strings.Contains(got, filepath.Dir(filepath.Dir(conf(1)))+"/<link>") || !strings.Contains(got, "--sysctls") {
		t.Errorf("message %q", got)
	}
	n.must(os.Remove(conf(1)))
	n.write("1\n", "ipv6", ifname(1), "accept_ra")
	n.settleAfter(time.Minute)
	n.expect([]string{"a eth1 ready"}, nil, nil)

	// Pods that come and go neither end nor begin it.
	n.must(os.RemoveAll(conf(1)))
	n.must(os.Mkdir(conf(1), 0o755)) // which nobody can read
	n.settle()
	n.logged()
	for range 3 {
		rec := n.hold(1)
		n.sync()
		n.now = n.now.Add(time.Minute)
		n.addLink(1, "eth1")
		n.must(rec.Remove())
		n.settle()
	}
	if got := n.logged(); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "problem") }) {
		t.Errorf("logged %q", got)
	}

	// A failure ends when somebody else sets 0 or the NodeENI is deleted.
	for _, end := range []func(){func() { n.write("0\n", "ipv6", ifname(1), "accept_ra") }, func() { n.undeclare("a") }} {
		n.must(os.RemoveAll(conf(1)))
		n.must(os.Mkdir(conf(1), 0o755)) // which nobody can read
		n.settle()
		n.expect([]string{"a eth1 ready"}, []string{"RouterAdvertisementsAccepted"}, nil)
		n.must(os.RemoveAll(conf(1)))
		end()
		n.settleAfter(time.Minute)
		if got := n.inventory().Problems; len(got) > 0 {
			t.Errorf("problems %+v", got)
		}
	}
}

type interests struct{ last []link.Link }

func (i *interests) Set(links []link.Link) { i.last = links }

func TestLinksOfInterest(t *testing.T) {
	n := newNode(t, 1, 2, 3)
	for e, name := range []string{1: "a", 2: "b"} {
		if name != "" {
			n.declare(name, e)
		}
	}
	var seen interests
	n.must(n.startWith(func(o *Options) { o.Interest = &seen }))
	n.settle()
	n.share(2, "10.0.0.2")
	n.sync()
	var got []string
	for _, l := range seen.last {
		got = append(got, l.Name)
	}
	same(t, "links that are cleared", []string{"eth1", "eth2"}, got)
}

func TestUndeclaredLinkIsNotCleared(t *testing.T) {
	n := settledNode(t)
	n.undeclare("a")
	n.host.ours[1], n.host.routes[1] = false, true
	n.settle()
	if !n.host.routes[1] {
		t.Error("the route of an ENI was removed that no NodeENI declares")
	}
}
