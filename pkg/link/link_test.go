package link_test

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var must, node, open, pod, eth1 = linktest.Must, linktest.Node, linktest.Open, linktest.Pod, linktest.ENI1

func TestMoveAndRestore(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	ns, in := pod(t, "pod")
	l, err := h.ByName("eth1")
	must(t, err)
	must(t, h.SetMTU(l.Index, 1400))
	must(t, h.SetUp(l.Index))
	must(t, h.Restore(l, nodestate.LinkState{Name: "eth1", MAC: l.MAC, MTU: 1400, Up: true, AltNames: []string{"enp6s0"}}))
	l, err = h.ByName("enp6s0")
	must(t, err)
	before := l.State()

	must(t, h.Move(l.Index, ns, "net1"))
	if _, err := h.ByName("eth1"); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("the link is still in the host: %v", err)
	}
	moved, err := in.ByName("net1")
	must(t, err)
	if moved.Up || moved.MAC != l.MAC || !slices.Equal(moved.AltNames, []string{"enp6s0"}) {
		t.Errorf("moved link = %+v", moved)
	}
	must(t, in.SetMTU(moved.Index, 1300))

	host, err := link.CurrentNetns()
	must(t, err)
	defer host.Close()
	must(t, in.Move(moved.Index, host, before.Name))
	back, err := h.ByName("eth1")
	must(t, err)
	must(t, h.Restore(back, before))
	back, err = h.ByName("eth1")
	must(t, err)
	if diff := cmp.Diff(before, back.State()); diff != "" {
		t.Errorf("state after the round trip (-before +after):\n%s", diff)
	}
}

func TestMoveOntoTakenName(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1, nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"})
	h := open(t)
	ns, in := pod(t, "pod")
	for _, name := range []string{"eth1", "eth2"} {
		l, err := h.ByName(name)
		must(t, err)
		err = h.Move(l.Index, ns, "net1")
		if name == "eth1" {
			must(t, err)
		} else if !errors.Is(err, link.ErrNameTaken) {
			t.Errorf("second move to net1: %v; want ErrNameTaken", err)
		}
	}
	// The documented trap: after the error the link is in the target netns.
	found, err := in.ByMAC("02:00:00:00:00:02")
	must(t, err)
	if len(found) != 1 || found[0].Up {
		t.Errorf("links with the second MAC in the container netns: %+v; want one, down", found)
	}
}

func TestAddressesAndRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	want := []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fd00::15/64")}
	for range 2 { // the second time nothing is left to do
		for _, p := range want {
			must(t, h.EnsureAddress(l.Index, p))
		}
	}
	must(t, h.SetUp(l.Index))
	got, err := h.Addresses(l.Index)
	must(t, err)
	for _, p := range want {
		if !slices.Contains(got, p) {
			t.Errorf("addresses = %v; want %v among them", got, p)
		}
	}
	routes := []routing.Route{
		{Dst: netip.MustParsePrefix("10.1.0.0/16"), Gateway: netip.MustParseAddr("10.0.2.1"), MTU: 1400, AdvMSS: 1360},
		{Dst: netip.MustParsePrefix("10.9.0.0/16")},
		{Dst: netip.MustParsePrefix("10.2.0.0/16"), Gateway: netip.MustParseAddr("10.0.2.1"), Table: 100, Priority: 7},
		{Dst: netip.MustParsePrefix("fd01::/64"), Gateway: netip.MustParseAddr("fd00::1")},
	}
	for range 2 {
		for _, r := range routes {
			must(t, h.EnsureRoute(l.Index, r))
			if ok, err := h.HasRoute(l.Index, r); err != nil || !ok {
				t.Errorf("HasRoute(%s) = %v, %v; want true", r, ok, err)
			}
		}
	}
	for table, want := range map[int]bool{0: true, 100: true, 254: false} {
		r := routing.Route{Dst: netip.MustParsePrefix("10.2.0.0/16"), Gateway: netip.MustParseAddr("10.0.2.1"), Table: table}
		if ok, err := h.HasRoute(l.Index, r); err != nil || ok != want {
			t.Errorf("HasRoute of a route of table 100 in table %d = %v, %v; want %v", table, ok, err, want)
		}
	}
	if all, err := h.DefaultRoutes(); err != nil || len(all.Of(l.Index)) > 0 {
		t.Errorf("DefaultRoutes = %v, %v; want none of the link", all, err)
	}
	for _, gw := range []string{"10.0.2.1", "fd00::1"} {
		g := netip.MustParseAddr(gw)
		must(t, h.EnsureRoute(l.Index, routing.Route{Dst: netip.PrefixFrom(g, 0).Masked(), Gateway: g}))
	}
	if all, err := h.DefaultRoutes(); err != nil || len(all.Of(l.Index)) == 0 {
		t.Errorf("DefaultRoutes = %v, %v; want some of the link", all, err)
	}
	if n, err := h.RemoveDefaultRoutes(l.Index); err != nil || n != 2 {
		t.Errorf("RemoveDefaultRoutes = %d, %v; want 2", n, err)
	}
	if all, err := h.DefaultRoutes(); err != nil || len(all.Of(l.Index)) > 0 {
		t.Errorf("DefaultRoutes after the removal = %v, %v; want none of the link", all, err)
	}
}

func TestProbe(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	ns, _ := pod(t, "pod")
	same := ns.Netns
	if same.Cookie == 0 && same.Inode == 0 {
		t.Fatal("a netns without identity")
	}
	if got := link.Probe(same); got != link.Alive {
		t.Errorf("Probe = %v; want Alive", got)
	}
	must(t, nstest.DeleteNetns(same.Path))
	if got := link.Probe(same); got != link.Gone {
		t.Errorf("Probe of a missing path = %v; want Gone", got)
	}
	must(t, nstest.NewNetns(same.Path))
	if got := link.Probe(same); got != link.Gone {
		t.Errorf("Probe of a reused path = %v; want Gone", got)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{file, "/proc/999999999/ns/net", "/proc/self/ns/net", "", t.TempDir()} {
		if got := link.Probe(nodestate.Netns{Path: path, Inode: 1}); got != link.Unknown {
			t.Errorf("Probe(%q) = %v; want Unknown", path, got)
		}
	}
	if _, err := link.OpenNetns(file); !errors.Is(err, link.ErrNotNetns) {
		t.Errorf("OpenNetns of a file: %v; want ErrNotNetns", err)
	}
	if _, err := link.OpenNetns("/run/netns/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenNetns of a missing path: %v; want ErrNotExist", err)
	}
}

// TestIndex: a name and altnames of any length lead to the link of the handle's own netns, and to no other.
func TestIndex(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	names := []string{"eth1", "enp6s0", "fifteen-letters", "an-altname-of-more-than-15-letters"}
	must(t, h.Restore(l, nodestate.LinkState{Name: "eth1", AltNames: names[1:], Up: true}))
	_, in := pod(t, "pod")
	for _, name := range names {
		if index, err := h.Index(name); err != nil || index != l.Index {
			t.Errorf("Index(%s) = %d, %v; want %d", name, index, err, l.Index)
		}
		if index, err := in.Index(name); !errors.Is(err, link.ErrNotFound) {
			t.Errorf("Index(%s) in the container = %d, %v; want ErrNotFound", name, index, err)
		}
	}
}

func TestSysctlIsTheNamespacesOwn(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	ns, _ := pod(t, "pod")
	set := func(name, value string) error {
		return ns.SetSysctls(func(set func(name, value string) error) error { return set(name, value) })
	}
	must(t, set("net/ipv4/conf/lo/rp_filter", "2"))
	var got []byte
	must(t, ns.Do(func() (err error) { got, err = os.ReadFile("/proc/sys/net/ipv4/conf/lo/rp_filter"); return err }))
	if string(got) != "2\n" {
		t.Errorf("rp_filter in the container = %q; want 2", got)
	}
	if host, err := os.ReadFile("/proc/sys/net/ipv4/conf/lo/rp_filter"); err != nil || string(host) == "2\n" {
		t.Errorf("rp_filter of the host's lo = %q, %v", host, err)
	}
	if err := set("net/ipv4/conf/none/rp_filter", "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sysctl of a missing link: %v; want ErrNotExist", err)
	}
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount("/proc/sys", unix.MNT_DETACH)) })
	must(t, unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	if err := set("net/ipv4/conf/lo/rp_filter", "2"); err != nil {
		t.Errorf("the value that it has already, in a read-only /proc/sys: %v; want no error", err)
	}
	if err := set("net/ipv4/conf/lo/rp_filter", "1"); !errors.Is(err, unix.EROFS) {
		t.Errorf("another value in a read-only /proc/sys: %v; want EROFS", err)
	}
}

// TestDoComesBack: after any result of f, and when the netns cannot be entered, the
// thread is in the netns that it was in.
func TestDoComesBack(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := link.CurrentNetns()
	must(t, err)
	defer home.Close()
	ns, _ := pod(t, "pod")
	at := func(when string, want *link.Netns) {
		t.Helper()
		now, err := link.CurrentNetns()
		must(t, err)
		defer now.Close()
		if !now.Same(want.Netns) {
			t.Fatalf("%s: in netns %d, want %d", when, now.Inode, want.Inode)
		}
		for _, n := range []*link.Netns{home, ns} {
			if here, err := n.Current(); err != nil || here != (n == want) {
				t.Errorf("%s: Current of netns %d = %v, %v; want %v", when, n.Inode, here, err, n == want)
			}
		}
	}
	must(t, ns.Do(func() error { at("inside", ns); return nil }))
	at("after success", home)
	refused := errors.New("refused")
	if err := ns.Do(func() error { return refused }); !errors.Is(err, refused) {
		t.Errorf("f's error became %v", err)
	}
	at("after an error", home)
	func() {
		defer func() {
			if got := recover(); got != any("dropped") {
				t.Errorf("f's panic became %v", got)
			}
		}()
		ns.Do(func() error { panic("dropped") }) //nolint:errcheck // it does not return
	}()
	at("after a panic", home)
	gone, err := link.OpenNetns(ns.FDPath())
	must(t, err)
	gone.Close()
	if err := gone.Do(func() error { t.Error("f ran"); return nil }); err == nil {
		t.Error("a closed netns was entered")
	}
	at("after a refusal", home)
}

// TestTentativeAddress: an address that somebody else has added can be used at once, as one of ours.
func TestTentativeAddress(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	must(t, h.SetUp(l.Index))
	p := netip.MustParsePrefix("fd00::15/64")
	nl, err := netlink.LinkByName("eth1")
	must(t, err)
	addr, err := netlink.ParseAddr(p.String())
	must(t, err)
	must(t, netlink.AddrAdd(nl, addr))
	bind := func() error {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addr(), 0)))
		if err == nil {
			err = c.Close()
		}
		return err
	}
	if err := bind(); err == nil {
		t.Error("the address is not tentative: this test shows nothing")
	}
	must(t, h.EnsureAddress(l.Index, p))
	must(t, bind())
	must(t, h.EnsureAddress(l.Index, p))
	must(t, bind())
}
