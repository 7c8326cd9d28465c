package attach_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestStackedLinksOfThePod: links that a pod made on its device are deleted. They would
// stay on the wire beside the next pod.
func TestStackedLinksOfThePod(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	must(t, nstest.In(args.Netns, func() error {
		parent, err := netlink.LinkByName("net1")
		if err != nil {
			return err
		}
		la := netlink.NewLinkAttrs()
		la.Name, la.ParentIndex = "mine", parent.Attrs().Index
		return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: la, Mode: netlink.MACVLAN_MODE_BRIDGE})
	}))
	e.del(args)
	e.holdsNone(args)
	e.unchanged(before, "after DEL")
}

// TestMACOfVF: a VF accepts only the MAC of its PF, so DEL does not restore the earlier
// one.
func TestMACOfVF(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	vf := nstest.ENI{PCI: "0000:01:10.0", Name: "eth7", MAC: "02:00:00:00:00:17", Driver: "igbvf", VF: "0000:01:00.0"}
	e := newEnv(t, vf)
	args := e.pod(map[string]any{"deviceID": vf.PCI})
	e.add(args)
	assigned := "02:00:00:00:00:71"
	inPod(t, args, func(h *link.Handle, l link.Link) error {
		return h.Restore(l, nodestate.LinkState{Name: l.Name, MAC: "02:00:00:00:00:71", MTU: l.MTU, Up: true})
	})
	e.del(args)
	h := hostLinks(t)
	if l, err := h.ByName("eth7"); err != nil || l.MAC.String() != assigned {
		t.Errorf("the VF after DEL = %+v, %v; want it with MAC %s", l, err, assigned)
	}
	e.roundTrip(map[string]any{"deviceID": vf.PCI})
}

func TestPFWithVFs(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	must(t, os.Symlink("../0000:01:10.0", filepath.Join(e.node.Sysfs, "bus/pci/devices", eniA.PCI, "virtfn0")))
	e.refused("ADD", e.pod(e.selectA()), 102, eniA.PCI, "1 virtual functions", "sriov_numvfs")
}

// TestReplacedDevice: an ENI was pulled out while a pod had it, and another one was
// plugged into its slot before DEL.
func TestReplacedDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	old := e.pod(e.selectA())
	e.add(old)
	must(t, e.node.Detach(eniA))
	other := eniA
	other.MAC = "02:00:00:00:00:a1"
	must(t, e.node.Attach(other))
	e.inv.Devices[0] = row(other, "a")
	e.writeInventory()
	next := e.pod(e.selectA())
	if r := e.add(next); r.Interfaces[0].Mac != other.MAC {
		t.Errorf("the next pod has %s; want the new device %s", r.Interfaces[0].Mac, other.MAC)
	}
	e.del(old)
	if links := e.podLinks(next); len(links) != 1 {
		t.Errorf("links of the next pod after the old one's DEL: %+v", links)
	}
	e.del(next)
	if pending, err := e.records().Restores(); err != nil || len(pending) != 0 {
		t.Errorf("restore records = %v, %v; want none", pending, err)
	}
}

// TestParentPulledOut: a device disappears with the pod's interface on it. The DEL of vlan
// fails without its master and releases no address. The pod's DEL succeeds and releases
// the addresses.
func TestParentPulledOut(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	var released int
	plugins := fake("vlan", func(command string) (string, error) {
		if command == "DEL" {
			return "", errors.New("Link not found")
		}
		return `{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[]}`, nil
	})
	plugins.fake["odd"] = func(command string) (string, error) {
		if command == "DEL" {
			released++
		}
		return "", nil
	}
	p := &attach.Plugin{Exec: plugins}
	conf := e.shared()
	conf["delegate"], conf["ipam"] = map[string]any{"type": "vlan", "vlanId": 5}, map[string]any{"type": "odd"}
	args := e.pod(conf)
	e.runs(p, "ADD", args)
	must(t, e.node.Detach(nstest.ENI{PCI: "0000:00:0c.0", Name: "ens12"}))
	e.runs(p, "DEL", args)
	if released != 1 {
		t.Errorf("the address was released %d times, want once", released)
	}
	if all, bad, err := e.records().List(); len(all) != 0 || bad != nil || err != nil {
		t.Errorf("records = %v, %v, %v; want none", all, bad, err)
	}
}

func (e *env) rewrite(args *skel.CmdArgs, change func(*nodestate.Attachment)) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := e.records().Lock(ctx, nodestate.AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName})
	must(e.t, err)
	defer r.Close()
	change(&r.Attachment)
	must(e.t, r.Save())
}

func (e *env) owes(pci string) bool {
	e.t.Helper()
	_, err := e.records().LoadRestore(device.PCIAddress(pci))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.t.Fatal(err)
	}
	return err == nil
}

// TestCosmeticsHoldNoDevice: a setting that the kernel does not restore fails neither DEL
// nor ADD. It stays in a restore record until the kernel accepts it.
func TestCosmeticsHoldNoDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	first := e.pod(e.selectA())
	e.add(first)
	e.rewrite(first, func(a *nodestate.Attachment) { a.Device.Link.MTU, a.Device.Link.Settings["group"] = 1<<20, "nonsense" })
	e.del(first)
	for range 2 {
		if !e.owes(eniA.PCI) {
			t.Fatal("nothing tells that the MTU is still owed")
		}
		e.roundTrip(e.selectA())
	}
	r, err := e.records().LoadRestore(device.PCIAddress(eniA.PCI))
	must(t, err)
	if r.Device.Link.MTU != 1<<20 || r.Device.Link.Settings["group"] != "nonsense" {
		t.Errorf("owed is %+v; want what the first pod found", r.Device.Link)
	}
	r.Device.Link.MTU, r.Device.Link.Settings["group"] = 1500, "0"
	must(t, e.records().SaveRestore(r))
	e.roundTrip(e.selectA())
	e.unchanged(before, "once the kernel takes it")
}

// TestPFThatRefuses: a VF whose PF settings are not restored is released, but no other pod
// gets it.
func TestPFThatRefuses(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	vf := nstest.ENI{PCI: "0000:00:0d.0", Name: "vf0", MAC: "02:00:00:00:00:0d", VF: eniA.PCI}
	e := newEnv(t, vf)
	e.inv.Devices = append(e.inv.Devices, row(vf, "vf"))
	e.writeInventory()
	pf, err := filepath.EvalSymlinks(filepath.Join(e.node.Sysfs, "bus/pci/devices", eniA.PCI))
	must(t, err)
	must(t, os.Symlink("../"+vf.PCI, filepath.Join(pf, "virtfn0")))
	conf := map[string]any{"select": map[string]any{"nodeENI": "vf"}}
	args := e.pod(conf)
	e.add(args)
	e.rewrite(args, func(a *nodestate.Attachment) {
		a.State = nodestate.StateIntent // its delegate's DEL has done nothing
		a.Device.Assigned = &nodestate.VFState{VLAN: 7}
	})
	e.del(args)
	if left := e.podLinks(args); len(left) != 0 || !e.owes(vf.PCI) {
		t.Errorf("left in the pod: %+v; and owed: %v", left, e.owes(vf.PCI))
	}
	e.refused("ADD", e.pod(conf), 11, vf.PCI, "VF")
	must(t, e.records().RemoveRestore(device.PCIAddress(vf.PCI)))
	e.roundTrip(conf)
}

// TestProgramOfThePod: an XDP program that may be of another netns stays on the device.
// DEL succeeds, but no pod gets the device before the program is gone.
func TestProgramOfThePod(t *testing.T) {
	if nstest.OutsideAsRoot(t) {
		return
	}
	xdp, err := adversary.LoadXDP()
	if errors.Is(err, adversary.ErrCannot) {
		t.Skip(err)
	}
	must(t, err)
	defer xdp.Close()
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	index := e.podLinks(args)[0].Index
	var end, endTwin func()
	must(t, nstest.In(args.Netns, func() (err error) { end, err = xdp.Link(index, adversary.HookXDP); return err }))
	must(t, nstest.NewNetns("/run/netns/other"))
	must(t, nstest.In("/run/netns/other", func() (err error) {
		if err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "twin", Index: index}}); err == nil {
			endTwin, err = xdp.Link(index, adversary.HookXDP)
		}
		return err
	}))
	e.del(args)
	e.refused("ADD", e.pod(e.selectA()), 11, eniA.PCI, "program")
	endTwin()
	e.roundTrip(e.selectA()) // now it is known, and removed
	e.unchanged(before, "after all")
	end()
}
