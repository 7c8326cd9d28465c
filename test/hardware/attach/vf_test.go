package attach

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// assigned is a PF's settings of a VF (IFLA_VFINFO_LIST).
type assigned struct {
	MAC             string
	VLAN, QoS       int
	Spoofchk, Trust bool
}

func adminOf(t *testing.T, pf string, i int) assigned {
	t.Helper()
	l, err := netlink.LinkByName(guest.Netdev(pf))
	guest.Must(t, err)
	for _, v := range l.Attrs().Vfs {
		if v.ID == i {
			return assigned{MAC: v.Mac.String(), VLAN: v.Vlan, QoS: v.Qos, Spoofchk: v.Spoofchk, Trust: v.Trust != 0}
		}
	}
	t.Fatalf("PF %s does not tell of VF %d", pf, i)
	return assigned{}
}

func assign(t *testing.T, pf string, i int, want assigned) {
	t.Helper()
	l, err := netlink.LinkByName(guest.Netdev(pf))
	guest.Must(t, err)
	assignMAC(t, pf, i, want.MAC)
	for what, err := range map[string]error{
		"VLAN":     netlink.LinkSetVfVlanQos(l, i, want.VLAN, want.QoS),
		"spoofchk": netlink.LinkSetVfSpoofchk(l, i, want.Spoofchk),
		"trust":    netlink.LinkSetVfTrust(l, i, want.Trust),
	} {
		if err != nil {
			t.Fatalf("set %s of VF %d: %v", what, i, err)
		}
	}
	if d := cmp.Diff(want, adminOf(t, pf, i)); d != "" {
		t.Fatalf("VF %d (-want +got):\n%s", i, d)
	}
}

func assignMAC(t *testing.T, pf string, i int, mac string) {
	t.Helper()
	l, err := netlink.LinkByName(guest.Netdev(pf))
	guest.Must(t, err)
	addr, err := net.ParseMAC(mac)
	if err == nil {
		err = netlink.LinkSetVfHardwareAddr(l, i, addr)
	}
	if err != nil {
		t.Fatalf("set MAC %s of VF %d: %v", mac, i, err)
	}
}

func vfMAC(i int) string { return fmt.Sprintf("02:00:00:00:02:1%d", i) }

// newVFs enables VFs with links that are up and MACs assigned by the PF. The PF is up during the test, or
// its VFs would have no link. Without an assigned MAC a VF makes one up each time.
func newVFs(t *testing.T, n int) (pf string, vfs []string) {
	t.Helper()
	found, err := filepath.Glob("/sys/bus/pci/drivers/igb/*:*")
	if err != nil || len(found) != 1 {
		t.Fatalf("find the PF: %q, %v", found, err)
	}
	state := device(filepath.Base(found[0]))
	up := state
	up.Up = true
	apply(t, state.Name, up)
	t.Cleanup(func() { apply(t, state.Name, state) })
	pf, vfs = guest.VFs(t, n)
	for i, vf := range vfs {
		name := guest.Netdev(vf)
		apply(t, name, netdev{Name: name, MTU: 1500, Up: true})
		assignMAC(t, pf, i, vfMAC(i))
		reset(t, name)
		if got := device(vf); got.MAC != vfMAC(i) {
			t.Fatalf("VF %d is %+v; want the MAC that is assigned", i, got)
		}
	}
	return pf, vfs
}

func reset(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l))
	}
	if err != nil {
		t.Errorf("reset %s: %v", name, err)
	}
}

func otherVLAN(t *testing.T, node string, id int, address string) {
	t.Helper()
	guest.In(t, node, func() {
		name := fmt.Sprintf("vlan%d", id)
		for _, l := range guest.Links(t) {
			if l.Type() != "device" || l.Attrs().Name == "lo" {
				continue
			}
			vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: l.Attrs().Index}, VlanId: id}
			if err := netlink.LinkAdd(vlan); err != nil {
				t.Errorf("make VLAN %d of the other node: %v", id, err)
				return
			}
		}
		addAddresses(t, name, address)
	})
}

// TestVFs: pods have VFs, directly and by the sriov delegate. Making VFs takes seconds, so all subtests share them.
func TestVFs(t *testing.T) {
	guest.Clean(t)
	node := otherNode(t, nic1, "10.0.2.1/24")
	otherVLAN(t, node, 7, "10.0.7.1/24")
	otherVLAN(t, node, 8, "10.0.8.1/24")
	pf, vfs := newVFs(t, 2)
	f := &vfTest{pf: pf, vfs: vfs, node: node}
	t.Run("exclusive", func(t *testing.T) { inBothEnds(t, f.exclusive) })
	t.Run("round trips", f.roundTrips)
	t.Run("another MAC", func(t *testing.T) { inBothEnds(t, f.anotherMAC) })
	t.Run("sriov", func(t *testing.T) { inBothEnds(t, f.sriov) })
	t.Run("sriov fails", f.sriovFails)
	t.Run("PF", f.physical)
}

type vfTest struct {
	pf   string
	vfs  []string
	node string
}

func (f *vfTest) prepare(t *testing.T, i int, up bool, want assigned) netdev {
	t.Helper()
	name := guest.Netdev(f.vfs[i])
	before := device(f.vfs[i])
	apply(t, name, netdev{Name: name, AltNames: []string{fmt.Sprintf("vf-%d", i)}, MTU: 1400, Up: up})
	assign(t, f.pf, i, want)
	t.Cleanup(func() {
		apply(t, name, before)
		assign(t, f.pf, i, assigned{MAC: vfMAC(i), Spoofchk: true})
	})
	return device(f.vfs[i])
}

func (f *vfTest) said(t *testing.T, when string, i int, want assigned) {
	t.Helper()
	if d := cmp.Diff(want, adminOf(t, f.pf, i)); d != "" {
		t.Errorf("what the PF says of VF %d %s (-want +got):\n%s", i, when, d)
	}
}

func (p *pod) mac(want string) {
	p.Helper()
	if got, said := p.link(ifName).Attrs().HardwareAddr.String(), p.result.Interfaces[0].Mac; got != want || said != want {
		p.Errorf("the VF in the pod has MAC %s, the result says %s; want %s", got, said, want)
	}
}

// exclusive: a pod has a VF with the PF's VLAN and MAC. ADD, DEL and the end of the netns leave the PF's settings.
func (f *vfTest) exclusive(t *testing.T, destroyed bool) {
	guest.Clean(t)
	want := assigned{MAC: vfMAC(1), VLAN: 7, QoS: 3, Spoofchk: false, Trust: true}
	before := f.prepare(t, 1, true, want)
	other := adminOf(t, f.pf, 0)
	p := newPod(t, "vf", conf{"deviceID": f.vfs[1], "ipam": static("10.0.7.2/24")})
	p.add()
	p.check()
	p.mac(want.MAC)
	f.said(t, "in the pod", 1, want)
	if destroyed {
		p.destroy()
	} else { // once: a VF takes seconds for its first packet
		guest.Talk(t, f.node, p.netns, "10.0.7.1:7000")
	}
	p.del()
	settle(t, f.vfs[1])
	f.said(t, "after DEL", 1, want)
	f.said(t, "all the time", 0, other)
	same(t, f.vfs[1], before)
}

// roundTrips: a hundred pods in turn, five of which end without DEL, leave the VF unchanged. Nothing grows or drifts.
func (f *vfTest) roundTrips(t *testing.T) {
	guest.Clean(t)
	indexes := func() (all []int) {
		for _, l := range guest.Links(t) {
			all = append(all, l.Attrs().Index)
		}
		return all
	}
	want := assigned{MAC: vfMAC(0), VLAN: 9, QoS: 1, Trust: true}
	before, began := f.prepare(t, 0, false, want), indexes()
	p := newPod(t, "trip", conf{"deviceID": f.vfs[0]})
	for trip := 1; trip <= 100 && !t.Failed(); trip++ {
		p.add()
		destroyed := trip%20 == 0
		if destroyed {
			p.destroy()
		}
		guest.MustDel(t, p.cni("DEL", nil))
		if destroyed {
			settle(t, f.vfs[0])
			p = newPod(t, "trip", p.conf)
		}
		if trip%5 != 0 {
			continue // each look takes as long as half a DEL
		}
		when := fmt.Sprintf("after %d round trips", trip)
		same(t, f.vfs[0], before)
		f.said(t, when, 0, want)
		if d := cmp.Diff(began, indexes()); d != "" {
			t.Errorf("indexes of the host's links %s (-before +after):\n%s", when, d)
		}
	}
}

// anotherMAC: the PF may assign another MAC before ADD or in the pod; the VF takes it at its next reset.
func (f *vfTest) anotherMAC(t *testing.T, destroyed bool) {
	guest.Clean(t)
	name := guest.Netdev(f.vfs[0])
	t.Cleanup(func() {
		assignMAC(t, f.pf, 0, vfMAC(0))
		reset(t, name)
	})
	before := device(f.vfs[0])
	p := newPod(t, "mac", conf{"deviceID": f.vfs[0]})
	assignMAC(t, f.pf, 0, "02:00:00:00:0a:03")
	p.add() // takes the link down, which is a reset
	p.mac("02:00:00:00:0a:03")
	p.check()
	assignMAC(t, f.pf, 0, "02:00:00:00:0a:04")
	p.in(func() error { reset(t, ifName); return nil })
	if got := p.link(ifName).Attrs().HardwareAddr.String(); got != "02:00:00:00:0a:04" {
		t.Errorf("the VF in the pod has MAC %s after its reset", got)
	}
	p.check()
	newPod(t, "second", p.conf).refused(101, f.vfs[0], p.id)
	if destroyed {
		p.destroy()
	}
	p.del()
	settle(t, f.vfs[0])
	before.MAC = "02:00:00:00:0a:04"
	same(t, f.vfs[0], before)
	if got := adminOf(t, f.pf, 0).MAC; got != before.MAC {
		t.Errorf("the PF says that the VF has MAC %s, want %s", got, before.MAC)
	}
}

func (f *vfTest) sriov(t *testing.T, destroyed bool) {
	guest.Clean(t)
	was := assigned{MAC: vfMAC(0), VLAN: 7, Spoofchk: true, Trust: false}
	before := f.prepare(t, 0, true, was)
	p := newPod(t, "delegate", conf{
		"deviceID": f.vfs[0], "ipam": hostLocal("10.0.8.0/24"),
		"delegate": conf{"type": "sriov", "vlan": 8, "mac": "02:00:00:00:0a:06", "spoofchk": "off", "trust": "on"},
	})
	p.add()
	p.check()
	p.mac("02:00:00:00:0a:06")
	f.said(t, "in the pod", 0, assigned{MAC: "02:00:00:00:0a:06", VLAN: 8, Spoofchk: false, Trust: true})
	newPod(t, "second", conf{"deviceID": f.vfs[0]}).refused(101, f.vfs[0], p.id)
	if destroyed {
		p.destroy()
	} else {
		guest.Talk(t, f.node, p.netns, "10.0.8.1:7000")
	}
	p.del()
	settle(t, f.vfs[0])
	f.said(t, "after DEL", 0, was)
	same(t, f.vfs[0], before)
}

// sriovFails: a refused VLAN leaves nothing. The delegate is not called for a device that is not a VF.
func (f *vfTest) sriovFails(t *testing.T) {
	guest.Clean(t)
	admin, before := adminOf(t, f.pf, 0), device(f.vfs[0])
	sriov := conf{"ipam": hostLocal("10.0.8.0/24"), "delegate": conf{"type": "sriov", "vlan": 5000}}
	newPod(t, "bad", sriov.with(conf{"deviceID": f.vfs[0]})).refused(999, "sriov", "5000")
	f.said(t, "after the ADD that failed", 0, admin)
	same(t, f.vfs[0], before)
	nic, _ := guest.WaitNIC(t, nic0)
	newPod(t, "no-vf", sriov.with(conf{"deviceID": nic})).refused(102, nic, "physfn")
}

// physical: a PF with VFs goes to no pod. If the VFs vanish under their pods, DEL succeeds.
func (f *vfTest) physical(t *testing.T) {
	before := device(f.pf)
	exclusive := conf{"deviceID": f.pf}
	newPod(t, "vfs-idle", exclusive).refused(102, f.pf, "2 virtual functions", "sriov_numvfs")
	newPod(t, "vfs-idle-delegate", exclusive.with(conf{"delegate": conf{"type": "host-device"}})).refused(102, f.pf, "sriov_numvfs")
	var users []*pod
	for i, c := range []conf{{}, {"delegate": conf{"type": "sriov", "vlan": 8}}} {
		p := newPod(t, fmt.Sprintf("user-%d", i), c.with(conf{"deviceID": f.vfs[i], "ipam": hostLocal("10.0.2.0/24")}))
		p.add()
		users = append(users, p)
	}
	newPod(t, "vfs-used", exclusive).refused(102, f.pf, "2 virtual functions", "sriov_numvfs")
	same(t, f.pf, before)
	guest.WriteSys(t, filepath.Join(guest.Devices, f.pf, "sriov_numvfs"), "0")
	for _, p := range users {
		p.del()
	}
	p := newPod(t, "no-vfs", exclusive)
	p.add()
	p.del()
	same(t, f.pf, before)
}
