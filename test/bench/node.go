package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	podIfName = "net1"
	// fewDevices and mostDevices are sizes of inventories; fewDevices is the usual one.
	fewDevices, mostDevices = 10, 100
)

var (
	sharedENI = nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02", MTU: 1500, Driver: "e1000e", Vendor: "0x8086", Device: "0x10d3"}
	dpdkENI   = nstest.ENI{PCI: "0000:00:08.0", Name: "eth3", MAC: "02:00:00:00:00:03", NoLink: true, Driver: "vfio-pci"}
	baseENIs  = []nstest.ENI{sharedENI, dpdkENI}
)

type tools struct{ floor, launch string }

type pod struct {
	netns   string
	links   *link.Handle
	eni     nstest.ENI
	address netip.Prefix // of the ENI
}

// node is a node with two ENIs that pods share or drive themselves, and a growing number of pods with an ENI each.
type node struct {
	*nstest.Node
	tools    tools
	cniPath  string // of the reference plugins
	multiENI string
	host     *link.Handle
	pods     []pod
}

func newNode(dir string, t tools) (*node, error) {
	multiENI, err := nstest.Binary("multi-eni")
	if err != nil {
		return nil, err
	}
	hostLocal, err := nstest.Binary("cni/host-local")
	if err != nil {
		return nil, err
	}
	base, err := nstest.NewNode(dir)
	if err != nil {
		return nil, err
	}
	n := &node{Node: base, tools: t, multiENI: multiENI, cniPath: filepath.Dir(hostLocal)}
	for _, e := range baseENIs {
		if err := n.Attach(e); err != nil {
			return nil, fmt.Errorf("attach %s: %w", e.Name, err)
		}
	}
	n.host, err = link.Open()
	return n, err
}

// inventory writes an inventory of size devices, base ENIs first, and returns its path and the pods. It makes what is missing.
func (n *node) inventory(size int) (string, []pod, error) {
	boot, err := nodestate.BootID()
	if err != nil {
		return "", nil, err
	}
	for len(n.pods) < size-len(baseENIs) {
		p, err := n.newPod(len(n.pods))
		if err != nil {
			return "", nil, err
		}
		n.pods = append(n.pods, p)
	}
	inv := nodestate.Inventory{NodeName: "node", BootID: boot, UpdatedAt: time.Now().UTC()}
	for _, e := range baseENIs {
		inv.Devices = append(inv.Devices, ready(e, netip.MustParsePrefix("10.0.2.15/24")))
	}
	for _, p := range n.pods[:size-len(baseENIs)] {
		inv.Devices = append(inv.Devices, ready(p.eni, p.address))
	}
	path := filepath.Join(n.Dir, fmt.Sprintf("inventory-%d.json", size))
	return path, n.pods, nodestate.WriteInventory(path, inv)
}

func (n *node) newPod(i int) (p pod, err error) {
	p = pod{
		netns: fmt.Sprintf("/run/netns/pod%d", i), address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i)}), 24),
		eni: nstest.ENI{PCI: fmt.Sprintf("0002:%02x:%02x.0", i/16, i%16), Name: fmt.Sprintf("eni%d", i), MAC: fmt.Sprintf("02:00:00:00:02:%02x", i), MTU: 1500},
	}
	if err := errors.Join(n.Attach(p.eni), nstest.NewNetns(p.netns)); err != nil {
		return p, err
	}
	ns, err := link.OpenNetns(p.netns)
	if err != nil {
		return p, err
	}
	defer ns.Close()
	p.links, err = ns.Open()
	return p, err
}

// ready is the row of an ENI whose driver is bound. Its NodeENI has its name.
func ready(e nstest.ENI, address netip.Prefix) nodestate.Device {
	return nodestate.Device{
		ENIID: device.ENIID("eni-" + strings.ReplaceAll(e.MAC, ":", "")[4:]), NodeENI: e.Name, MAC: device.MAC(e.MAC), PCIAddress: device.PCIAddress(e.PCI),
		InterfaceName: e.Name, Driver: cmp.Or(e.Driver, "ena"), DeviceIndex: 1, SubnetID: "subnet-0000000a",
		SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Addresses: []netip.Prefix{address}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.2.208/28")},
		Phase: nodestate.PhaseReady,
	}
}

// ours are the keys of multi-eni's netconf that choose a NodeENI.
func (n *node) ours(nodeENI, inventory string) map[string]any {
	return map[string]any{
		"select": map[string]any{"nodeENI": nodeENI}, "dataDir": filepath.Join(n.Dir, "records"), "inventory": inventory, "sysfs": n.Sysfs,
	}
}
