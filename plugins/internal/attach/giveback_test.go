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
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

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
