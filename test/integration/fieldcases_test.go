package integration

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestTunedAttachmentIsChecked: tuning changes the interface after multi-eni. CHECK passes, and still finds a loss.
func TestTunedAttachmentIsChecked(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	c.inventory("10.0.2.15/24", "10.0.2.16/24")
	for _, tuning := range []map[string]any{
		{"mtu": 1300},
		{"mac": "02:00:00:00:00:99"},
		{"promisc": true, "allmulti": true, "mtu": 1300, "mac": "02:00:00:00:00:99"},
	} {
		tuning["type"] = "tuning"
		for address, delegate := range map[string]any{
			"10.0.2.15/24": nil,
			"10.0.2.16/24": map[string]any{"type": "macvlan", "mode": "passthru"},
		} {
			ipam := map[string]any{"type": "eni-ipam"}
			if delegate != nil {
				ipam["coolDown"] = 0
			}
			c.conflist("1.0.0", map[string]any{
				"type": "multi-eni", "sysfs": c.node.Sysfs, "select": map[string]any{"nodeENI": "dataplane-a"}, "delegate": delegate, "ipam": ipam,
			}, tuning)
			pod := c.pod("pod")
			c.mustTool("add", pod)
			c.mustTool("check", pod)
			must(t, nstest.In(pod, func() error {
				l, err := netlink.LinkByName("net1")
				if err != nil {
					return err
				}
				addr, err := netlink.ParseAddr(address)
				if err != nil {
					return err
				}
				return netlink.AddrDel(l, addr)
			}))
			if out, err := c.cnitool("check", pod); err == nil || !strings.Contains(out, "lost its address "+address) {
				t.Errorf("%v: CHECK without the address: %v, %s", tuning, err, out)
			}
			c.mustTool("del", pod)
			must(t, nstest.DeleteNetns(pod))
		}
	}
}

// TestOneDestinationByTwoNetworks: one pod has the same destination by two NADs. The kernel has both, and CHECK agrees.
func TestOneDestinationByTwoNetworks(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	second := nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"}
	must(t, c.node.Attach(second))
	boot, err := nodestate.BootID()
	must(t, err)
	inv := nodestate.Inventory{NodeName: "node", BootID: boot}
	for i, e := range []nstest.ENI{eni, second} {
		address := netip.MustParsePrefix([]string{"10.79.1.15/24", "10.79.2.15/24"}[i])
		inv.Devices = append(inv.Devices, nodestate.Device{
			ENIID: []device.ENIID{"eni-0a1b2c3d4e5f60001", "eni-0a1b2c3d4e5f60002"}[i], NodeENI: []string{"net-1", "net-2"}[i],
			PCIAddress: []device.PCIAddress{"0000:00:06.0", "0000:00:07.0"}[i], MAC: []device.MAC{"02:00:00:00:00:01", "02:00:00:00:00:02"}[i],
			InterfaceName: e.Name, Driver: "ena", DeviceIndex: 1 + i, SubnetCIDR: address.Masked(), Addresses: []netip.Prefix{address}, Phase: nodestate.PhaseReady,
		})
	}
	must(t, nodestate.WriteInventory(nodestate.DefaultInventoryPath, inv))
	networks := []string{
		`{"cniVersion":"1.1.0","name":"n1","type":"multi-eni","select":{"nodeENI":"net-1"},"ipam":{"type":"eni-ipam"},` +
			`"routes":[{"dst":"10.100.0.0/16","gw":"10.79.1.1"}]}`,
		`{"cniVersion":"1.1.0","name":"n2","type":"multi-eni","select":{"nodeENI":"net-2"},"ipam":{"type":"eni-ipam"},` +
			`"routes":[{"dst":"10.100.0.0/16","gw":"10.79.2.1"}]}`,
	}
	pod := c.pod("pod")
	verb := func(verb string, i int) {
		t.Helper()
		var plugin map[string]any
		must(t, json.Unmarshal([]byte(networks[i]), &plugin))
		plugin["sysfs"] = c.node.Sysfs
		c.conflist("1.1.0", plugin)
		if out, err := c.cnitool(verb, pod, []string{"CNI_IFNAME=net1", "CNI_IFNAME=net2"}[i]); err != nil {
			t.Fatalf("%s of network %d: %v, %s", verb, i+1, err, out)
		}
	}
	leads := func() (gateways []string) {
		must(t, nstest.In(pod, func() error {
			routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			for _, r := range routes {
				if r.Dst.String() == "10.100.0.0/16" {
					gateways = append(gateways, r.Gw.String())
				}
			}
			return err
		}))
		return gateways
	}
	for i := range networks {
		verb("add", i)
	}
	if got := strings.Join(leads(), " "); got != "10.79.2.1 10.79.1.1" {
		t.Errorf("10.100.0.0/16 by %q, want both gateways, the last first", got)
	}
	for i := range networks {
		verb("check", i)
	}
	verb("del", 1)
	if got := strings.Join(leads(), " "); got != "10.79.1.1" {
		t.Errorf("10.100.0.0/16 by %q, want the first gateway", got)
	}
	verb("check", 0)
	verb("del", 0)
}

// TestDefaultRouteWithSBR: sbr moves a default route before eth0's into its own table. CHECK agrees with both.
func TestDefaultRouteWithSBR(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	c.inventory("10.0.2.15/24", "10.0.2.16/24")
	multiENI := map[string]any{
		"type": "multi-eni", "sysfs": c.node.Sysfs, "select": map[string]any{"nodeENI": "dataplane-a"},
		"ipam": map[string]any{"type": "eni-ipam", "routes": []any{map[string]any{"dst": "0.0.0.0/0"}}},
	}
	shared := maps.Clone(multiENI)
	shared["delegate"] = map[string]any{"type": "macvlan", "mode": "passthru"}
	for _, tt := range []struct {
		plugins []map[string]any
		address string
		by      string // traffic of no address leaves by
	}{
		{[]map[string]any{multiENI}, "10.0.2.15", "net1"},
		{[]map[string]any{multiENI, {"type": "sbr"}}, "10.0.2.15", "eth0"},
		{[]map[string]any{shared, {"type": "sbr"}}, "10.0.2.16", "eth0"},
	} {
		c.conflist("1.1.0", tt.plugins...)
		pod := c.pod("pod")
		must(t, nstest.In(pod, func() error {
			eth0 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"}
			addr, err := netlink.ParseAddr("10.1.0.5/24")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkAdd(eth0), netlink.LinkSetUp(eth0), netlink.AddrAdd(eth0, addr),
				netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Index, Gw: net.IPv4(10, 1, 0, 1)}))
		}))
		c.mustTool("add", pod)
		c.mustTool("check", pod)
		must(t, nstest.In(pod, func() error {
			for from, want := range map[string]string{"": tt.by, tt.address: "net1"} {
				options := &netlink.RouteGetOptions{}
				if from != "" {
					options.SrcAddr = net.ParseIP(from)
				}
				routes, err := netlink.RouteGetWithOptions(net.IPv4(192, 0, 2, 1), options)
				if err != nil {
					return err
				}
				l, err := netlink.LinkByIndex(routes[0].LinkIndex)
				if err != nil || l.Attrs().Name != want {
					t.Errorf("%d plugins, from %q: by %v, %v; want %s", len(tt.plugins), from, l, err, want)
				}
			}
			return nil
		}))
		c.mustTool("del", pod)
		must(t, nstest.DeleteNetns(pod))
	}
}
