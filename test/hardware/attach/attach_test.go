// Package attach drives the plugin on real PCI devices, as a runtime does.
package attach

import (
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Spec{}) }

// NICs of machine.DefaultNICs. nic0 and nic2 are attached to pods; nic1 belongs to another node on the wire.
const (
	nic0 = "02:00:00:00:01:00"
	nic1 = "02:00:00:00:01:01"
	nic2 = "02:00:00:00:01:02"
)

const ifName = "net1"

type conf map[string]any

func (c conf) with(more conf) conf {
	out := maps.Clone(c)
	maps.Copy(out, more)
	return out
}

func hostLocal(subnets ...string) conf {
	var ranges []any
	for _, s := range subnets {
		ranges = append(ranges, []any{conf{"subnet": s}})
	}
	return conf{"type": "host-local", "ranges": ranges}
}

func static(addresses ...string) conf {
	var all []any
	for _, a := range addresses {
		all = append(all, conf{"address": a})
	}
	return conf{"type": "static", "addresses": all}
}

type pod struct {
	*testing.T
	netns, id string
	conf      conf
	result    *types100.Result
}

// newPod makes a container's netns. Its name is the container's id too.
func newPod(t *testing.T, name string, c conf) *pod {
	t.Helper()
	return &pod{T: t, netns: guest.NewNetns(t, name), id: name, conf: c}
}

func (p *pod) cni(verb string, more conf) guest.CNICall {
	p.Helper()
	c := conf{"cniVersion": "1.1.0", "name": "wire", "type": "multi-eni"}.with(p.conf).with(more)
	data, err := json.Marshal(c)
	guest.Must(p, err)
	return guest.CNICall{Verb: verb, Netns: p.netns, ContainerID: p.id, IfName: ifName, Conf: string(data)}
}

func (p *pod) add() *types100.Result {
	p.Helper()
	p.result = guest.MustAdd(p, p.cni("ADD", nil)).Result
	return p.result
}

func (p *pod) check() {
	p.Helper()
	guest.WantCode(p, p.cni("CHECK", conf{"prevResult": p.result}), 0)
}

func (p *pod) del() {
	p.Helper()
	guest.MustDel(p, p.cni("DEL", nil))
	guest.MustDel(p, p.cni("DEL", nil))
}

func (p *pod) refused(code int, words ...string) {
	p.Helper()
	guest.WantCode(p, p.cni("ADD", nil), code, words...)
	p.del()
}

// destroy ends the pod without DEL: its netns and everything in it is gone.
func (p *pod) destroy() {
	p.Helper()
	guest.DeleteNetns(p, p.netns)
}

func (p *pod) link(name string) netlink.Link {
	p.Helper()
	var l netlink.Link
	p.in(func() error {
		var err error
		l, err = netlink.LinkByName(name)
		return err
	})
	if l == nil {
		p.Fatalf("pod %s has no %s", p.id, name)
	}
	return l
}

func (p *pod) in(f func() error) {
	p.Helper()
	guest.In(p, p.netns, func() {
		if err := f(); err != nil {
			p.Errorf("in pod %s: %v", p.id, err)
		}
	})
}

func (p *pod) ip(i int) netip.Addr {
	p.Helper()
	if p.result == nil || i >= len(p.result.IPs) {
		p.Fatalf("pod %s has no address %d", p.id, i)
	}
	a, _ := netip.AddrFromSlice(p.result.IPs[i].Address.IP)
	return a.Unmap()
}

func at(a netip.Addr) string { return netip.AddrPortFrom(a, 7000).String() }

type netdev struct {
	Name, MAC string
	AltNames  []string
	MTU       int
	Up        bool
}

func describe(l netlink.Link) netdev {
	a := l.Attrs()
	return netdev{Name: a.Name, MAC: a.HardwareAddr.String(), AltNames: slices.Sorted(slices.Values(a.AltNames)), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
}

func device(pci string) netdev {
	if l, ok := guest.ByName(guest.Netdev(pci)); ok {
		return describe(l)
	}
	return netdev{}
}

func same(t *testing.T, pci string, want netdev) {
	t.Helper()
	if d := cmp.Diff(want, device(pci)); d != "" {
		t.Errorf("device %s (-before +after):\n%s", pci, d)
	}
}

func prepare(t *testing.T, mac string, want netdev) string {
	t.Helper()
	pci, name := guest.WaitNIC(t, mac)
	before := device(pci)
	apply(t, name, want)
	t.Cleanup(func() {
		if name := guest.Netdev(pci); name != "" {
			apply(t, name, before)
		}
	})
	return pci
}

// apply sets a link of this netns to the wanted state, except for its MAC.
func apply(t *testing.T, name string, want netdev) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	guest.Must(t, err)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Errorf("prepare %s as %+v: %v", name, want, err)
		}
	}
	check(netlink.LinkSetDown(l))
	for _, alt := range l.Attrs().AltNames {
		check(netlink.LinkDelAltName(l, alt))
	}
	if l.Attrs().Name != want.Name {
		check(netlink.LinkSetName(l, want.Name))
	}
	for _, alt := range want.AltNames {
		check(netlink.LinkAddAltName(l, alt))
	}
	check(netlink.LinkSetMTU(l, want.MTU))
	if want.Up {
		check(netlink.LinkSetUp(l))
	}
}

func otherNode(t *testing.T, mac string, addresses ...string) string {
	t.Helper()
	path := guest.NewNetns(t, "other-node")
	pci, name := guest.WaitNIC(t, mac)
	before := device(pci)
	move(t, name, path)
	guest.In(t, path, func() { addAddresses(t, name, addresses...) })
	t.Cleanup(func() {
		guest.In(t, path, func() { move(t, name, "/proc/1/ns/net") })
		apply(t, name, before)
	})
	return path
}

func addAddresses(t *testing.T, name string, addresses ...string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	for _, a := range addresses {
		if err != nil {
			break
		}
		p := netip.MustParsePrefix(a)
		err = netlink.AddrAdd(l, &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: ipNet(p)})
	}
	if err != nil {
		t.Errorf("give %s the addresses %q: %v", name, addresses, err)
	}
}

func addRoute(t *testing.T, dst, gateway string) {
	t.Helper()
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Gw: net.ParseIP(gateway)}); err != nil {
		t.Errorf("add the route to %s by way of %s: %v", dst, gateway, err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func move(t *testing.T, name, netns string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Errorf("move %s: %v", name, err)
		return
	}
	f, err := os.Open(netns)
	if err != nil {
		t.Errorf("move %s: %v", name, err)
		return
	}
	defer f.Close()
	if err := netlink.LinkSetNsFd(l, int(f.Fd())); err != nil {
		t.Errorf("move %s to %s: %v", name, netns, err)
	}
}
