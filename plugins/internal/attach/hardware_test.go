package attach_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
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
