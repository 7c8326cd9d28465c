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

type contender struct {
	call     guest.CNICall
	add, del table.Sample
}

func (c *contender) against(other *contender, title string, limit float64) []table.Row {
	return []table.Row{
		compared(fmt.Sprintf(title, "ADD"), c.add, other.add, 0),
		compared(fmt.Sprintf(title, "DEL"), c.del, other.del, 0),
		compared(fmt.Sprintf(title, "ADD + DEL"), c.add.Plus(c.del), other.add.Plus(other.del), limit),
	}
}

type bed struct {
	t         *testing.T
	pci, host string // the device, and its link in the host
	pod       string // path of the netns
	dir       string
	inventory string // path; the device's NodeENI is "bench"
}

func newBed(t *testing.T, pci string) bed {
	t.Helper()
	boot, err := nodestate.BootID()
	guest.Must(t, err)
	dir, host := t.TempDir(), guest.Netdev(pci)
	l, ok := guest.ByName(host)
	if !ok {
		t.Fatalf("no link of %s", pci)
	}
	b := bed{t: t, pci: pci, host: host, pod: guest.NewNetns(t, "bench"), dir: dir, inventory: filepath.Join(dir, "inventory.json")}
	d := nodestate.Device{
		ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "bench", MAC: device.MAC(l.Attrs().HardwareAddr.String()), PCIAddress: device.PCIAddress(pci),
		InterfaceName: host, Phase: nodestate.PhaseReady,
		SubnetCIDR: netip.MustParsePrefix("10.0.1.0/24"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.32/28")},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.15/24")},
	}
	guest.Must(t, nodestate.WriteInventory(b.inventory, nodestate.Inventory{NodeName: "node", BootID: boot, Devices: []nodestate.Device{d}}))
	return b
}

func (b bed) close() { guest.DeleteNetns(b.t, b.pod) }

// ipam is a source of addresses: its type, and more keys of its netconf.
type ipam struct{ kind, keys string }

var (
	primary   = ipam{"eni-ipam", `"addresses":"one"`}
	leases    = ipam{"eni-ipam", `"coolDown":0`}
	hostLocal = ipam{"host-local", `"ranges":[[{"subnet":"10.0.1.0/24","rangeStart":"10.0.1.100"}]]`}
	static    = ipam{"static", `"addresses":[{"address":"10.0.1.10/24"}]`}
)

// plugin is a contender with keys in its netconf. Each has an address store of its own.
func (b bed) plugin(kind, keys string, from ipam) *contender {
	id := kind + "-" + from.kind
	return &contender{call: guest.CNICall{
		Type: kind, ContainerID: id, Netns: b.pod,
		Conf: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"bench","type":%q,%s,"ipam":{"type":%q,%s,"dataDir":%q}}`, kind, keys, from.kind, from.keys,
			filepath.Join(b.dir, id)),
	}}
}

func (b bed) ours(keys string, from ipam) *contender {
	return b.plugin("multi-eni", fmt.Sprintf(`"select":{"nodeENI":"bench"},"inventory":%q%s`, b.inventory, keys), from)
}

func measure(all []*contender, once func(guest.CNICall) (add, del time.Duration)) {
	for i := range warmUp + *rounds {
		for k := range all {
			c := all[(i+k)%len(all)]
			add, del := once(c.call)
			if i >= warmUp {
				c.add.Add(add)
				c.del.Add(del)
			}
		}
	}
}

// exclusive compares with host-device, which leaves the link down. With up it is up, and DEL lasts until it is again.
func exclusive(t *testing.T, name, pci string, up bool) []table.Row {
	t.Helper()
	b := newBed(t, pci)
	defer b.close()
	device := fmt.Sprintf(`"device":%q`, b.host)
	own, ours := b.ours("", primary), b.ours("", static)
	local, theirs := b.plugin("host-device", device, hostLocal), b.plugin("host-device", device, static)
	measure([]*contender{own, local, ours, theirs}, func(c guest.CNICall) (add, del time.Duration) { return b.move(c, up) })
	return append(own.against(local, name+": exclusive %s, eni-ipam; other: host-device, host-local", exclusiveTarget),
		ours.against(theirs, name+": exclusive %s, static; other: host-device, static", exclusiveTarget)...)
}

func (b bed) move(c guest.CNICall, up bool) (add, del time.Duration) {
	b.t.Helper()
	if up {
		guest.SetUp(b.t, b.host)
	} else {
		guest.SetDown(b.t, b.host)
	}
	time.Sleep(settle)
	add = guest.MustAdd(b.t, c).Took
	if got := guest.Netdev(b.pci); got != "" {
		b.t.Fatalf("after ADD by %s the host has %s", c.Type, got)
	}
	time.Sleep(settle)
	del = guest.MustDel(b.t, c).Took
	if got := guest.Netdev(b.pci); got != b.host {
		b.t.Fatalf("after DEL by %s the host has %q, want %s", c.Type, got, b.host)
	}
	if up {
		began := time.Now()
		guest.SetUp(b.t, b.host) // nothing is left to do after multi-eni
		del += time.Since(began)
	}
	return add, del
}

func shared(t *testing.T, pci, delegate string) []table.Row {
	t.Helper()
	b := newBed(t, pci)
	defer b.close()
	guest.SetUp(t, b.host)
	through := fmt.Sprintf(`,"delegate":{"type":%q}`, delegate)
	own, ours, alone := b.ours(through, leases), b.ours(through, hostLocal), b.plugin(delegate, fmt.Sprintf(`"master":%q`, b.host), hostLocal)
	measure([]*contender{own, ours, alone}, func(c guest.CNICall) (add, del time.Duration) {
		time.Sleep(settle)
		add = guest.MustAdd(t, c).Took
		time.Sleep(settle)
		return add, guest.MustDel(t, c).Took
	})
	return append(own.against(alone, delegate+": %s, eni-ipam; other: "+delegate+" alone, host-local", sharedTarget),
		ours.against(alone, delegate+": %s, host-local; other: the same", 0)...)
}
