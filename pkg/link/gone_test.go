package link_test

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const gone = 4711 // no link has this index

// TestVerbsOnGoneLink: a link may go between the look at it and the change. Each verb says
// so with ErrNotFound, but for those for which gone is as wanted.
func TestVerbsOnGoneLink(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h := open(t)
	ns, _ := pod(t, "pod")
	l := link.Link{Index: gone, Name: "eth9", MAC: "02:00:00:00:00:01", Up: true, AltNames: []string{"alt"}}
	net1 := netip.MustParsePrefix("10.0.0.5/24")
	for name, err := range map[string]error{
		"Move":          h.Move(gone, ns, "net1"),
		"MoveUp":        h.MoveUp(gone, ns, "net1"),
		"Rename":        h.Rename(gone, "net1"),
		"TryRename":     h.TryRename(gone, "net1"),
		"SetUp":         h.SetUp(gone),
		"SetDown":       h.SetDown(gone),
		"SetMTU":        h.SetMTU(gone, 1400),
		"Announce":      h.Announce(l),
		"DropAltNames":  h.DropAltNames(gone, "alt"),
		"EnsureAddress": h.EnsureAddress(gone, net1),
		"EnsureRoute":   h.EnsureRoute(gone, routing.Route{Dst: net1.Masked()}),
		"ClearAddress":  h.ClearAddress(gone, net1),
		"Restore":       h.Restore(l, nodestate.LinkState{Name: "eth9", MAC: "02:00:00:00:00:02", MTU: 1400, Up: false}),
		"ByIndex":       func() error { _, err := h.ByIndex(gone); return err }(),
		"ByName":        func() error { _, err := h.ByName("eth9"); return err }(),
		"ByName, long":  func() error { _, err := h.ByName("an-altname-that-is-longer"); return err }(),
		"Index":         func() error { _, err := h.Index("eth9"); return err }(),
		"Index, long":   func() error { _, err := h.Index("an-altname-that-is-longer"); return err }(),
		"Ethtool":       func() error { _, err := h.Ethtool("eth9"); return err }(),
		"VF":            func() error { _, err := h.VF("eth9", 0); return err }(),
		"AssignVF":      h.AssignVF("eth9", 0, nodestate.VFState{}),
	} {
		if !errors.Is(err, link.ErrNotFound) {
			t.Errorf("%s: %v; want ErrNotFound", name, err)
		}
	}
	for name, err := range map[string]error{
		"Delete":        h.Delete(gone),
		"DeleteStacked": h.DeleteStacked([]link.Link{{Index: gone, Name: "mv0", Kind: "macvlan", Below: 1}}, 1),
		"ForgetRouters": h.ForgetRouters(gone),
		"Leave":         h.Leave(l, nodestate.LinkState{}),
	} {
		if err != nil {
			t.Errorf("%s: %v; want no error", name, err)
		}
	}
	if found, err := h.Addresses(gone); len(found) > 0 || err != nil && !errors.Is(err, link.ErrNotFound) {
		t.Errorf("Addresses: %v, %v", found, err)
	}
	if has, err := h.HasRoute(gone, routing.Route{Dst: net1.Masked()}); has || err != nil {
		t.Errorf("HasRoute: %v, %v", has, err)
	}
	if n, err := h.RemoveDefaultRoutes(gone); n != 0 || err != nil {
		t.Errorf("RemoveDefaultRoutes: %d, %v", n, err)
	}
	if done, err := h.ClearRoutes(gone); len(done.Protocols) > 0 || done.Only || done.Shared || err != nil {
		t.Errorf("ClearRoutes: %+v, %v", done, err)
	}
}

// TestPFWithoutVFs: a link that is no PF has no VF to assign anything to.
func TestPFWithoutVFs(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	if state, err := h.VF("eth1", 0); !errors.Is(err, link.ErrNotFound) || state != (nodestate.VFState{}) {
		t.Errorf("VF 0 of a veth: %+v, %v; want ErrNotFound", state, err)
	}
	if err := h.AssignVF("eth1", 0, nodestate.VFState{VLAN: 7}); !errors.Is(err, link.ErrNotFound) || !strings.Contains(err.Error(), "VF 0 of eth1") {
		t.Errorf("AssignVF: %v; want ErrNotFound with the VF", err)
	}
}

// TestRename: names and altnames share one space, and a link is not taken down for nothing.
func TestRename(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	eth2 := nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"}
	node(t, eth1, eth2)
	h := open(t)
	l, err := h.ByName("eth1")
	must(t, err)
	other, err := h.ByName("eth2")
	must(t, err)
	must(t, netlink.LinkAddAltName(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: other.Index}}, "uplink"))
	must(t, h.SetUp(l.Index))
	for _, taken := range []string{"eth2", "uplink"} {
		for verb, err := range map[string]error{"Rename": h.Rename(l.Index, taken), "TryRename": h.TryRename(l.Index, taken)} {
			if !errors.Is(err, link.ErrNameTaken) {
				t.Errorf("%s to %s: %v; want ErrNameTaken", verb, taken, err)
			}
		}
	}
	if now, err := h.ByIndex(l.Index); err != nil || !now.Up || now.Name != "eth1" {
		t.Errorf("after refused names: %+v, %v; want it up, and named as before", now, err)
	}
	must(t, h.Rename(l.Index, "net1"))
	must(t, h.TryRename(l.Index, "net2"))
	if err := h.Rename(l.Index, "a name with blanks"); err == nil {
		t.Error("a name that is none is taken")
	}
	for _, name := range []string{"net2", "uplink"} {
		byName, err := h.ByName(name)
		must(t, err)
		if index, err := h.Index(name); err != nil || index != byName.Index {
			t.Errorf("Index(%s) = %d, %v; want %d", name, index, err, byName.Index)
		}
	}
	must(t, h.DropAltNames(other.Index, "uplink"))
	if err := h.DropAltNames(other.Index, "uplink", "eth2"); err == nil || !strings.Contains(err.Error(), "uplink") || !strings.Contains(err.Error(), "eth2") {
		t.Errorf("DropAltNames of names that it does not have: %v; want both in the error", err)
	}
}

// TestDeleteStacked: links on top of a device go, and links beside it stay.
func TestDeleteStacked(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	eth2 := nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"}
	node(t, eth1, eth2)
	h := open(t)
	var index []int
	for _, name := range []string{"eth1", "eth2"} {
		l, err := h.ByName(name)
		must(t, err)
		index = append(index, l.Index)
		for _, child := range []string{"a", "b"} {
			must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: name + child, ParentIndex: l.Index}}))
		}
	}
	all, err := h.Links()
	must(t, err)
	must(t, h.DeleteStacked(all, index[0]))
	must(t, h.DeleteStacked(all, index[0])) // from a list that is out of date
	all, err = h.Links()
	must(t, err)
	var left []string
	for _, l := range all {
		if l.Kind == "macvlan" {
			left = append(left, l.Name)
		}
	}
	if strings.Join(left, " ") != "eth2a eth2b" {
		t.Errorf("left: %q; want those of eth2", left)
	}
}

// TestAnnounce: to set the MAC that a link has is allowed while it is up, and changes nothing.
func TestAnnounce(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	must(t, h.SetUp(l.Index))
	must(t, h.Announce(l))
	if now, err := h.ByName("eth1"); err != nil || now.MAC != device.MAC(eth1.MAC) || !now.Up {
		t.Errorf("after the announcement: %+v, %v", now, err)
	}
	must(t, h.SetDown(l.Index))
	must(t, h.SetDown(l.Index))
	if now, err := h.ByName("eth1"); err != nil || now.Up {
		t.Errorf("after SetDown: up %v, %v", now.Up, err)
	}
}

// TestWithoutRights: who may not change the netns is told EPERM, not that there is no link.
func TestWithoutRights(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	var none [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	must(t, unix.Capset(&head, &none[0]))
	for name, err := range map[string]error{
		"SetUp":         h.SetUp(l.Index),
		"Rename":        h.Rename(l.Index, "net1"),
		"Delete":        h.Delete(l.Index),
		"EnsureAddress": h.EnsureAddress(l.Index, netip.MustParsePrefix("10.0.0.5/24")),
		"EnsureRoute":   h.EnsureRoute(l.Index, routing.Route{Dst: netip.MustParsePrefix("10.9.0.0/16")}),
	} {
		if !errors.Is(err, unix.EPERM) || errors.Is(err, link.ErrNotFound) {
			t.Errorf("%s: %v; want EPERM", name, err)
		}
	}
	if _, err := h.ByName("eth1"); err != nil {
		t.Errorf("reading needs no right: %v", err)
	}
}
