package bench

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/bench/table"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// sharedTarget is the ratio to the delegate alone.
const sharedTarget = 1.25

// shared compares ipvlan through multi-eni, with leases and with host-local, to
// ipvlan alone with host-local.
func shared(t *testing.T, pci string) []table.Row {
	t.Helper()
	host := guest.Netdev(pci)
	guest.SetUp(t, host)
	pod := guest.NewNetns(t, "bench")
	defer guest.DeleteNetns(t, pod)
	boot, err := nodestate.BootID()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	inventory := filepath.Join(dir, "inventory.json")
	d := nodestate.Device{
		ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "shared", MAC: macENI, PCIAddress: device.PCIAddress(pci), InterfaceName: host, Phase: nodestate.PhaseReady,
		SubnetCIDR: netip.MustParsePrefix("10.0.1.0/24"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.32/28")}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.15/24")},
	}
	if err := nodestate.WriteInventory(inventory, nodestate.Inventory{NodeName: "node", BootID: boot, Devices: []nodestate.Device{d}}); err != nil {
		t.Fatal(err)
	}
	call := func(plugin, id, keys string) *contender {
		return &contender{call: guest.CNICall{Type: plugin, ContainerID: id, Netns: pod, Conf: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"bench","type":%q,%s}`, plugin, keys)}}
	}
	local := func(store string) string {
		return fmt.Sprintf(`"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.0.1.0/24","rangeStart":"10.0.1.100"}]]}`, filepath.Join(dir, store))
	}
	through := fmt.Sprintf(`"select":{"nodeENI":"shared"},"inventory":%q,"delegate":{"type":"ipvlan"},`, inventory)
	all := []*contender{
		call("multi-eni", "leases", through+fmt.Sprintf(`"ipam":{"type":"eni-ipam","coolDown":0,"dataDir":%q}`, filepath.Join(dir, "leases"))),
		call("multi-eni", "local", through+local("ours")),
		call("ipvlan", "alone", fmt.Sprintf(`"master":%q,`, host)+local("theirs")),
	}
	for i := range warmUp + *rounds {
		for k := range all {
			c := all[(i+k)%len(all)]
			time.Sleep(settle)
			add := guest.MustAdd(t, c.call).Took
			time.Sleep(settle)
			del := guest.MustDel(t, c.call).Took
			if i >= warmUp {
				c.add.Add(add)
				c.del.Add(del)
			}
		}
	}
	leases, ours, alone := all[0], all[1], all[2]
	return []table.Row{
		compared("ipvlan: ADD, eni-ipam; other: ipvlan alone with host-local", leases.add, alone.add, 0),
		compared("ipvlan: DEL, eni-ipam", leases.del, alone.del, 0),
		compared("ipvlan: ADD + DEL, eni-ipam", leases.add.Plus(leases.del), alone.add.Plus(alone.del), sharedTarget),
		compared("ipvlan: ADD + DEL, host-local", ours.add.Plus(ours.del), alone.add.Plus(alone.del), 0),
	}
}
