package link_test

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestFindDevice: the link is found as long as anything proves that it is the device's.
func TestFindDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	eth2 := nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"}
	n := node(t, eth1, eth2)
	h := open(t)
	sys := sysfs.NewFS(n.Sysfs)
	d := nodestate.AttachedDevice{PCIAddress: device.PCIAddress(eth1.PCI), MAC: device.MAC(eth1.MAC)}
	find := func(d nodestate.AttachedDevice) (link.Link, error) {
		t.Helper()
		fn, err := sys.PCI(d.PCIAddress)
		must(t, err)
		return h.FindDevice(sys, fn, d)
	}
	want, err := h.ByName("eth1")
	must(t, err)
	found := func(what string, d nodestate.AttachedDevice) {
		t.Helper()
		if l, err := find(d); err != nil || l.Index != want.Index {
			t.Errorf("%s: %q, %v; want eth1", what, l.Name, err)
		}
	}
	found("as sysfs has it", d)
	found("with an unknown MAC", nodestate.AttachedDevice{PCIAddress: d.PCIAddress})
	must(t, h.Rename(want.Index, "ens6"))
	found("renamed since sysfs was read", d)

	// Another link has the name that sysfs shows, and its own MAC.
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}}))
	found("beside another link of its old name", d)
	must(t, h.Delete(want.Index))
	if l, err := find(d); !errors.Is(err, link.ErrOtherDevice) {
		t.Errorf("another link has its name, and it is gone: %q, %v; want ErrOtherDevice", l.Name, err)
	}
	// A VF changes its MAC on reset: the function's own interface is it.
	vf := nodestate.AttachedDevice{PCIAddress: d.PCIAddress, MAC: d.MAC, VF: true}
	if l, err := find(vf); err != nil || l.Name != "eth1" {
		t.Errorf("a VF with another MAC: %q, %v; want the function's interface", l.Name, err)
	}
	other, err := h.ByName("eth1")
	must(t, err)
	must(t, h.Delete(other.Index))
	if l, err := find(vf); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("a VF without interface: %q, %v; want ErrNotFound", l.Name, err)
	}

	// A stacked link shares its parent's MAC and is no device.
	parent, err := h.ByName("eth2")
	must(t, err)
	must(t, netlink.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: parent.Index, HardwareAddr: device.MAC(eth1.MAC).HardwareAddr()}, Mode: netlink.MACVLAN_MODE_BRIDGE,
	}))
	if l, err := find(d); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("a macvlan with its MAC: %q, %v; want ErrNotFound", l.Name, err)
	}
	stacked, err := h.ByName("mv0")
	must(t, err)
	if stacked.Movable() || !parent.Movable() {
		t.Errorf("Movable: macvlan %v, veth %v", stacked.Movable(), parent.Movable())
	}
	// A link with its MAC that sysfs knows as another function's is not it either.
	must(t, netlink.LinkSetHardwareAddr(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: parent.Index}}, device.MAC(eth1.MAC).HardwareAddr()))
	if l, err := find(d); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("another function's link with its MAC: %q, %v; want ErrNotFound", l.Name, err)
	}
	if same, err := h.ByMAC(device.MAC(eth1.MAC)); err != nil || len(same) != 2 || same[0].Index != parent.Index {
		t.Errorf("ByMAC = %v, %v; want both links, by index", same, err)
	}
}

// TestFindMoved: in the pod's netns, the best proof decides, and a kind excludes.
func TestFindMoved(t *testing.T) {
	const pci, mac = device.PCIAddress("0000:00:06.0"), device.MAC("02:00:00:00:00:01")
	d := nodestate.AttachedDevice{PCIAddress: pci, MAC: mac, Link: &nodestate.LinkState{}}
	veth := d
	veth.Link = &nodestate.LinkState{Kind: "veth"}
	for name, tt := range map[string]struct {
		all  []link.Link
		d    nodestate.AttachedDevice
		seen *nodestate.Interface
		want int // index; 0 for ErrNotFound
	}{
		"none":                    {nil, d, nil, 0},
		"by PCI before MAC":       {[]link.Link{{Index: 2, MAC: mac}, {Index: 3, Parent: pci}}, d, nil, 3},
		"by index before MAC":     {[]link.Link{{Index: 2, MAC: mac}, {Index: 3}}, d, &nodestate.Interface{Index: 3}, 3},
		"by MAC":                  {[]link.Link{{Index: 2}, {Index: 3, MAC: mac}}, d, &nodestate.Interface{}, 3},
		"by its permanent MAC":    {[]link.Link{{Index: 3, MAC: "02:00:00:00:00:09", PermMAC: mac}}, d, nil, 3},
		"another function's":      {[]link.Link{{Index: 3, MAC: mac, Parent: "0000:00:07.0"}}, d, &nodestate.Interface{Index: 3}, 0},
		"another kind":            {[]link.Link{{Index: 3, MAC: mac, Kind: "macvlan"}}, d, &nodestate.Interface{Index: 3}, 0},
		"of the recorded kind":    {[]link.Link{{Index: 2, MAC: mac, Kind: "macvlan"}, {Index: 3, MAC: mac, Kind: "veth"}}, veth, nil, 3},
		"a record without a link": {[]link.Link{{Index: 3, MAC: mac}}, nodestate.AttachedDevice{PCIAddress: pci, MAC: mac}, nil, 3},
		"no MAC is no proof":      {[]link.Link{{Index: 3}}, nodestate.AttachedDevice{PCIAddress: pci}, nil, 0},
	} {
		l, err := link.FindMoved(tt.all, tt.d, tt.seen)
		if l.Index != tt.want || errors.Is(err, link.ErrNotFound) != (tt.want == 0) {
			t.Errorf("%s: %d, %v; want %d", name, l.Index, err, tt.want)
		}
	}
}

// TestFindMade: a pod may give its name and index to another link of another kind.
func TestFindMade(t *testing.T) {
	all := []link.Link{{Index: 2, Name: "net1", Kind: "dummy"}, {Index: 3, Name: "moved", Kind: "macvlan", Over: 7}}
	for name, tt := range map[string]struct {
		seen nodestate.Interface
		want int
	}{
		"by index":                {nodestate.Interface{Index: 3, Kind: "macvlan", Over: 7}, 3},
		"over another link":       {nodestate.Interface{Index: 3, Kind: "macvlan", Over: 8}, 0},
		"of another kind":         {nodestate.Interface{Index: 2, Kind: "macvlan"}, 0},
		"by name, not seen":       {nodestate.Interface{}, 2},
		"by name, of other kind":  {nodestate.Interface{Kind: "macvlan"}, 0},
		"gone":                    {nodestate.Interface{Index: 9}, 0},
		"of a kind never learned": {nodestate.Interface{Index: 2}, 2},
	} {
		l, err := link.FindMade(all, tt.seen, "net1")
		if l.Index != tt.want || errors.Is(err, link.ErrNotFound) != (tt.want == 0) {
			t.Errorf("%s: %d, %v; want %d", name, l.Index, err, tt.want)
		}
	}
}

// TestFallbackName: it fits into IFNAMSIZ, and differs by PCI address.
func TestFallbackName(t *testing.T) {
	for pci, want := range map[device.PCIAddress]string{
		"0000:00:06.0":  "eni000000060",
		"0000:00:06.1":  "eni000000061",
		"10000:e1:00.0": "eni10000e1000",
	} {
		got := link.FallbackName(pci)
		if got != want || len(got) > 15 {
			t.Errorf("FallbackName(%s) = %q; want %q", pci, got, want)
		}
	}
}
