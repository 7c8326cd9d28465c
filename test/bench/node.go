package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/bench/table"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	podNetns  = "/run/netns/pod"
	podIfName = "net1"
	// rounds of each comparison, after warmUp rounds that are thrown away.
	rounds = 50
	warmUp = 3
	// settle is the pause before each measured run. The kernel destroys
	// host-device's temporary netns after the plugin has ended, and whoever runs
	// meanwhile waits for that: with a pause of 30 ms the floor took half as
	// long again when it ran after host-device.
	settle = 100 * time.Millisecond
	// mostDevices is the size of the largest inventory.
	mostDevices = 100
)

var (
	enaENI    = nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01", MTU: 1500}
	e1000eENI = nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02", MTU: 1500, Driver: "e1000e", Vendor: "0x8086", Device: "0x10d3"}
	dpdkENI   = nstest.ENI{PCI: "0000:00:08.0", Name: "eth3", MAC: "02:00:00:00:00:03", NoLink: true, Driver: "vfio-pci"}
)

// tools are the paths of what the outer process has built.
type tools struct{ floor, launch string }

// node is a node with three ENIs, one pod netns and inventories of several sizes.
type node struct {
	*nstest.Node
	tools     tools
	cniPath   string // of the reference plugins
	multiENI  string
	host, pod *link.Handle
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
	for _, e := range []nstest.ENI{enaENI, e1000eENI, dpdkENI} {
		if err := n.Attach(e); err != nil {
			return nil, fmt.Errorf("attach %s: %w", e.Name, err)
		}
	}
	for i := range mostDevices - 3 { // for the inventories: functions whose link is elsewhere
		if err := n.Attach(nstest.ENI{PCI: spare(i).PCIAddress.String(), NoLink: true}); err != nil {
			return nil, err
		}
	}
	if err := nstest.NewNetns(podNetns); err != nil {
		return nil, err
	}
	return n, n.open()
}

func (n *node) open() (err error) {
	if n.host, err = link.Open(); err != nil {
		return err
	}
	ns, err := link.OpenNetns(podNetns)
	if err != nil {
		return err
	}
	defer ns.Close()
	n.pod, err = ns.Open()
	return err
}

// inventory writes an inventory of size devices, the three ENIs first, and
// returns its path. The NodeENI of an ENI is named after its driver.
func (n *node) inventory(size int) (string, error) {
	boot, err := nodestate.BootID()
	if err != nil {
		return "", err
	}
	inv := nodestate.Inventory{NodeName: "node", BootID: boot, UpdatedAt: time.Now().UTC()}
	inv.Devices = append(inv.Devices, ready(enaENI, "ena"), ready(e1000eENI, "e1000e"), ready(dpdkENI, "vfio-pci"))
	for i := range size - len(inv.Devices) {
		inv.Devices = append(inv.Devices, spare(i))
	}
	path := filepath.Join(n.Dir, fmt.Sprintf("inventory-%d.json", size))
	return path, nodestate.WriteInventory(path, inv)
}

// ready is the row of an ENI whose driver is bound.
func ready(e nstest.ENI, driver string) nodestate.Device {
	return nodestate.Device{
		ENIID: device.ENIID("eni-" + strings.ReplaceAll(e.MAC, ":", "")[4:]), NodeENI: driver, MAC: device.MAC(e.MAC), PCIAddress: device.PCIAddress(e.PCI),
		InterfaceName: e.Name, Driver: driver, DeviceIndex: 1, SubnetID: "subnet-0000000a",
		SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.2.208/28")},
		Phase: nodestate.PhaseReady,
	}
}

// spare is a device that fills an inventory.
func spare(i int) nodestate.Device {
	d := ready(enaENI, "ena")
	d.ENIID, d.NodeENI = device.ENIID(fmt.Sprintf("eni-%08x", i+0x100)), fmt.Sprintf("spare-%03d", i)
	d.MAC = device.MAC(fmt.Sprintf("02:00:00:00:01:%02x", i))
	d.PCIAddress = device.PCIAddress(fmt.Sprintf("0000:%02x:%02x.0", 0x10+i/16, i%16))
	d.InterfaceName, d.DeviceIndex = fmt.Sprintf("eth%d", 10+i), 2+i
	return d
}

// hostLocal is an address plugin's netconf, IPv4 only: with IPv6 host-device
// waits for duplicate address detection, which would make the comparison easy.
func (n *node) hostLocal(store string) map[string]any {
	return map[string]any{
		"type": "host-local", "dataDir": filepath.Join(n.Dir, "ipam", store),
		"ranges": []any{[]any{map[string]any{"subnet": "10.0.2.0/24", "rangeStart": "10.0.2.10", "rangeEnd": "10.0.2.200"}}},
	}
}

// multiENIConf is a netconf of multi-eni with more keys merged over it.
func (n *node) multiENIConf(nodeENI, inventory string, more map[string]any) map[string]any {
	conf := map[string]any{
		"cniVersion": "1.1.0", "name": "bench", "type": "multi-eni", "select": map[string]any{"nodeENI": nodeENI},
		"dataDir": filepath.Join(n.Dir, "records"), "inventory": inventory, "sysfs": n.Sysfs,
	}
	for k, v := range more {
		conf[k] = v
	}
	return conf
}

// timed is what rounds of ADD and DEL took, in milliseconds.
type timed struct{ add, del table.Sample }

func (t timed) sum() table.Sample { return t.add.Plus(t.del) }

// compare runs the contenders one after the other, round by round. The order
// of the results is theirs.
func (n *node) compare(ctx context.Context, all ...contender) ([]timed, error) {
	out := make([]timed, len(all))
	for i := range warmUp + rounds {
		for k, c := range all {
			add, del, err := n.once(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if i >= warmUp {
				out[k].add.Add(add)
				out[k].del.Add(del)
			}
		}
	}
	return out, nil
}

// once is one ADD and one DEL. Both begin with the link up, whatever the
// contender before has left, and are checked to have had their effect.
func (n *node) once(ctx context.Context, c contender) (add, del time.Duration, err error) {
	if c.host == "" { // nothing moves
		if add, err = c.add.run(ctx); err == nil {
			del, err = c.del.run(ctx)
		}
		return add, del, err
	}
	if err := quiet(ctx, n.host, c.host); err != nil {
		return 0, 0, err
	}
	if add, err = c.add.run(ctx); err != nil {
		return 0, 0, err
	}
	if err := quiet(ctx, n.pod, podIfName); err != nil {
		return 0, 0, fmt.Errorf("after ADD: %w", err)
	}
	if del, err = c.del.run(ctx); err != nil {
		return 0, 0, err
	}
	switch _, err := n.pod.ByName(podIfName); {
	case err == nil:
		return 0, 0, fmt.Errorf("after DEL the pod still has %s", podIfName)
	case !errors.Is(err, link.ErrNotFound):
		return 0, 0, fmt.Errorf("after DEL: %w", err)
	}
	return add, del, nil
}

// quiet brings the link up and waits until the kernel has done what earlier
// runs have left it to do.
func quiet(ctx context.Context, h *link.Handle, name string) error {
	l, err := h.ByName(name)
	if err != nil {
		return err
	}
	if err := h.SetUp(l.Index); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
		return nil
	}
}
