package attach

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	pcidev "github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// TestIPVLANL2: two pods share an ENI and its MAC. They reach each other and another node, in both directions.
func TestIPVLANL2(t *testing.T) {
	guest.Clean(t)
	node := otherNode(t, nic1, "10.0.2.1/24", "fd00:2::1/64")
	pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1600, Up: true})
	before := device(pci)
	c := conf{"deviceID": pci, "mtu": 1450, "delegate": conf{"type": "ipvlan", "mode": "l2"}, "ipam": hostLocal("10.0.2.0/24", "fd00:2::/64")}
	a, b := newPod(t, "a", c), newPod(t, "b", c)
	a.add()
	b.add()
	for _, p := range []*pod{a, b} {
		if got := describe(p.link(ifName)); got.MAC != nic0 || got.MTU != 1450 || !got.Up {
			t.Errorf("the interface of %s is %+v", p.id, got)
		}
		p.check()
	}
	if i := a.result.Interfaces[0]; i.PciID != pci {
		t.Errorf("the result's interface is %+v, want pciID %s", i, pci)
	}
	guest.Talk(t, a.netns, b.netns, at(a.ip(0)))
	guest.Talk(t, node, a.netns, "10.0.2.1:7000")
	guest.Talk(t, b.netns, node, at(b.ip(1)))
	newPod(t, "alone", conf{"deviceID": pci}).refused(101, pci)
	a.del()
	guest.Talk(t, b.netns, node, at(b.ip(0)))
	b.del()
	same(t, pci, before)
}

// TestIPVLANL3: in modes l3 and l3s the pods have a subnet of their own, and the host routes for them without
// ARP. The user must set up:
//
//   - an address of the ENI's subnet in the host, for its ARP there;
//   - routes of scope link in the pods: these modes have no ARP, and so no gateway;
//   - routes in the other nodes to the pods' subnet through the ENI's address. In a VPC this is a route of the
//     subnet's route table to the ENI, with the ENI's source/destination check off.
func TestIPVLANL3(t *testing.T) {
	for _, mode := range []string{"l3", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			guest.Clean(t)
			node := otherNode(t, nic1, "10.0.2.1/24")
			pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
			before := device(pci)
			addAddresses(t, "ens7", "10.0.2.10/24")
			t.Cleanup(func() { flush(t, "ens7") })
			guest.In(t, node, func() { addRoute(t, "10.60.0.0/24", "10.0.2.10") })
			c := conf{
				"deviceID": pci, "delegate": conf{"type": "ipvlan", "mode": mode}, "ipam": hostLocal("10.60.0.0/24"),
				"routes": []any{conf{"dst": "10.0.2.0/24", "scope": int(netlink.SCOPE_LINK)}},
			}
			a, b := newPod(t, "a", c), newPod(t, "b", c)
			a.add()
			b.add()
			a.check()
			guest.Talk(t, a.netns, b.netns, at(a.ip(0)))
			guest.Talk(t, node, a.netns, "10.0.2.1:7000")
			guest.Talk(t, b.netns, node, at(b.ip(0)))
			a.del()
			b.del()
			same(t, pci, before)
		})
	}
}

func flush(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		return // gone, or renamed and so without any
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	for _, a := range addrs {
		if err == nil {
			err = netlink.AddrDel(l, &a)
		}
	}
	if err != nil {
		t.Errorf("take the addresses of %s away: %v", name, err)
	}
}

// TestIPVLANMode: the kernel has one ipvlan mode for a device, so a pod that wants another one is refused.
func TestIPVLANMode(t *testing.T) {
	guest.Clean(t)
	pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
	before := device(pci)
	in := func(id, mode string) *pod {
		return newPod(t, id, conf{"deviceID": pci, "delegate": conf{"type": "ipvlan", "mode": mode}, "ipam": hostLocal("10.0.2.0/24")})
	}
	a := in("a", "l2")
	a.add()
	has := func(when string, want netlink.IPVlanMode) {
		t.Helper()
		if l, ok := a.link(ifName).(*netlink.IPVlan); !ok || l.Mode != want {
			t.Errorf("%s the first pod's interface is %+v, want mode %d", when, l, want)
		}
	}
	in("b", "l3").refused(102, pci, "container a", "now l2;")
	has("after the refusal", netlink.IPVLAN_MODE_L2)

	master, err := netlink.LinkByName("ens7")
	guest.Must(t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "other", master.Attrs().Index
	other := &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L3}
	guest.Must(t, netlink.LinkAdd(other))
	has("beside another link of the host in mode l3", netlink.IPVLAN_MODE_L3)
	guest.Must(t, netlink.LinkDel(other))
	a.del()
	c := in("c", "l3")
	c.add()
	c.del()
	same(t, pci, before)
}

// TestVLAN: each pod reaches another node in its own VLAN only. The kernel refuses a VLAN's second pod; nothing stays.
func TestVLAN(t *testing.T) {
	guest.Clean(t)
	node := otherNode(t, nic1, "10.0.2.1/24")
	otherVLAN(t, node, 5, "10.0.5.1/24")
	otherVLAN(t, node, 6, "10.0.6.1/24")
	pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
	before := device(pci)
	vlan := func(id int, subnet string) conf {
		return conf{"deviceID": pci, "delegate": conf{"type": "vlan", "vlanId": id}, "ipam": hostLocal(subnet)}
	}
	a, b := newPod(t, "a", vlan(5, "10.0.5.0/24")), newPod(t, "b", vlan(6, "10.0.6.0/24"))
	for p, want := range map[*pod]int{a: 5, b: 6} {
		p.add()
		p.check()
		if l, ok := p.link(ifName).(*netlink.Vlan); !ok || l.VlanId != want {
			t.Errorf("the interface of %s is %+v; want VLAN %d", p.id, l, want)
		}
	}
	guest.Talk(t, node, a.netns, "10.0.5.1:7000")
	guest.Talk(t, b.netns, node, at(b.ip(0)))
	c := newPod(t, "c", vlan(5, "10.0.5.0/24"))
	if r := guest.CNI(t, c.cni("ADD", nil)); r.Code == 0 {
		t.Error("a second pod has got VLAN 5")
	}
	c.del()
	a.del()
	c.add()
	guest.Talk(t, node, c.netns, "10.0.5.1:7000")
	c.del()
	b.del()
	same(t, pci, before)
}

// TestMACVLAN: on a NIC that is not an ENI pods may have MACs of their own.
func TestMACVLAN(t *testing.T) {
	guest.Clean(t)
	node := otherNode(t, nic1, "10.0.2.1/24")
	pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
	before := device(pci)
	c := conf{"deviceID": pci, "delegate": conf{"type": "macvlan", "mode": "bridge"}, "ipam": hostLocal("10.0.2.0/24")}
	a, b := newPod(t, "a", c), newPod(t, "b", c)
	a.add()
	b.add()
	guest.Talk(t, a.netns, b.netns, at(a.ip(0)))
	guest.Talk(t, node, a.netns, at(netip.MustParseAddr("10.0.2.1")))
	guest.Talk(t, b.netns, node, at(b.ip(0)))
	a.del()
	b.del()
	same(t, pci, before)
}

// TestIPVLANLeases: pods that share an ENI get addresses of both families from the plugin, without host-local.
func TestIPVLANLeases(t *testing.T) {
	for _, mode := range []string{"l2", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			guest.Clean(t)
			node := otherNode(t, nic1, "10.0.2.1/24", "fd00:2::1/64")
			pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
			before := device(pci)
			boot, err := nodestate.BootID()
			guest.Must(t, err)
			dir := t.TempDir()
			inventory := filepath.Join(dir, "inventory.json")
			d := nodestate.Device{
				ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "shared", MAC: nic0, PCIAddress: pcidev.PCIAddress(pci), InterfaceName: "ens7", Phase: nodestate.PhaseReady,
				SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.2.32/28"),
					netip.MustParsePrefix("fd00:2:0:0:1::/80")},
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fd00:2::15/64")},
			}
			guest.Must(t, nodestate.WriteInventory(inventory, nodestate.Inventory{NodeName: "node", BootID: boot, Devices: []nodestate.Device{d}}))
			c := conf{
				"select": conf{"nodeENI": "shared"}, "inventory": inventory, "delegate": conf{"type": "ipvlan", "mode": mode},
				"ipam": conf{"type": "eni-ipam", "families": []string{"ipv4", "ipv6"}, "dataDir": filepath.Join(dir, "leases"), "coolDown": 0},
			}
			a, b := newPod(t, "a", c), newPod(t, "b", c)
			a.add()
			b.add()
			for i, want := range []string{"10.0.2.32", "fd00:2:0:0:1::"} {
				if got := a.ip(i).String(); got != netip.MustParseAddr(want).String() || b.ip(i) != a.ip(i).Next() {
					t.Errorf("addresses %s and %s, want %s and the next", got, b.ip(i), want)
				}
			}
			a.check()
			b.check()
			guest.Talk(t, a.netns, b.netns, at(a.ip(0)))
			guest.Talk(t, b.netns, a.netns, at(b.ip(1)))
			if mode == "l2" {
				guest.Talk(t, node, a.netns, "10.0.2.1:7000")
				guest.Talk(t, a.netns, node, at(a.ip(0)))
				guest.Talk(t, b.netns, node, at(b.ip(1)))
			}
			a.del()
			b.destroy()
			b.del()
			held, err := leases.Dir(filepath.Join(dir, "leases")).Held()
			if err != nil || len(held) != 0 {
				t.Errorf("held after DEL: %v, %v", held, err)
			}
			same(t, pci, before)
		})
	}
}
