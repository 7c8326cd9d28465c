package attach

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// TestExclusive: the pod has the NIC with addresses and routes of both families; the host gets it back unchanged.
func TestExclusive(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before netdev
		mtu    int // 0: not in the netconf
	}{
		{"up with names", netdev{Name: "ens7", AltNames: []string{"enp2s0", "eni-a"}, MTU: 1600, Up: true}, 1450},
		{"down", netdev{Name: "ens8", MTU: 1500}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			guest.Clean(t)
			node := otherNode(t, nic1, "10.0.2.1/24", "fd00:2::1/64", "10.50.0.1/32", "fd00:50::1/128")
			pci := prepare(t, nic0, tt.before)
			before := device(pci)
			c := conf{
				"deviceID": pci, "ipam": hostLocal("10.0.2.0/24", "fd00:2::/64"),
				"routes": []any{conf{"dst": "10.50.0.0/16"}, conf{"dst": "fd00:50::/32", "gw": "fd00:2::1"}},
			}
			want := netdev{Name: ifName, MAC: nic0, AltNames: before.AltNames, MTU: tt.before.MTU, Up: true}
			if tt.mtu != 0 {
				c["mtu"], want.MTU = tt.mtu, tt.mtu
			}
			p := newPod(t, "exclusive", c)
			p.add()
			if d := cmp.Diff(want, describe(p.link(ifName))); d != "" {
				t.Errorf("the pod's interface (-want +got):\n%s", d)
			}
			if i := p.result.Interfaces[0]; i.Mac != nic0 || i.Mtu != want.MTU || i.PciID != pci || i.Sandbox != p.netns {
				t.Errorf("the result's interface is %+v", i)
			}
			p.check()
			newPod(t, "second", c).refused(101, pci, p.id)
			guest.Talk(t, node, p.netns, at(netip.MustParseAddr("10.50.0.1")))
			guest.Talk(t, node, p.netns, at(netip.MustParseAddr("fd00:50::1")))
			guest.Talk(t, p.netns, node, at(p.ip(1)))
			p.del()
			same(t, pci, before)
		})
	}
}

// TestEvicted: a pod that changed its NIC dies without DEL. Its late DEL does not touch the next pod's NIC.
func TestEvicted(t *testing.T) {
	guest.Clean(t)
	pci := prepare(t, nic0, netdev{Name: "ens7", AltNames: []string{"eni-a"}, MTU: 1600, Up: true})
	before := device(pci)
	c := conf{"deviceID": pci, "ipam": hostLocal("10.0.2.0/24")}
	first := newPod(t, "first", c)
	first.add()
	first.disfigure("eth0")
	first.destroy()
	next := newPod(t, "next", c)
	next.add()
	if got := describe(next.link(ifName)); got.MAC != nic0 || got.MTU != 1600 {
		t.Errorf("the next pod's interface is %+v; want MAC %s and MTU 1600", got, nic0)
	}
	first.del()
	next.check()
	next.del()
	same(t, pci, before)
}

func (p *pod) disfigure(name string) {
	p.Helper()
	l := p.link(ifName)
	p.in(func() error {
		for _, change := range []func() error{
			func() error { return netlink.LinkSetDown(l) },
			func() error { return netlink.LinkSetName(l, name) },
			func() error { return netlink.LinkSetHardwareAddr(l, []byte{2, 0xbb, 1, 1, 1, 1}) },
			func() error { return netlink.LinkSetMTU(l, 1400) },
			func() error { return netlink.LinkAddAltName(l, "pods-own") },
			func() error { return netlink.LinkSetUp(l) },
		} {
			if err := change(); err != nil {
				return err
			}
		}
		return nil
	})
}
