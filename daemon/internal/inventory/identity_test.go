package inventory

import (
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func TestSeveralSubnets(t *testing.T) {
	both := func(o *v1alpha1.NodeENI) {
		o.Spec.SubnetID, o.Spec.DeviceIndex = "", 2
		o.Spec.SubnetIDs = []string{subnet(2).String(), subnet(3).String()}
	}
	tests := []struct {
		name     string
		edit     func(*v1alpha1.NodeENI)
		change   func(*world)
		rows     []brief
		problems []string
	}{
		{
			name: "both", edit: resource("intel.com/x"),
			rows: []brief{{"a", 2, pci(2), "eth2", "intel.com/x", ready}, {"a", 3, pci(3), "eth3", "intel.com/x", ready}},
		},
		{
			name: "dpdkPCIAddress picks one", edit: statedPCI(pci(3).String()),
			rows: []brief{{"a", 2, pci(2), "eth2", "", ready}, {"a", 3, pci(3), "eth3", v1alpha1.DefaultResourceName, ready}},
		},
		{
			name: "dpdkPCIAddress is none of them", edit: statedPCI(pci(9).String()),
			rows:     []brief{{"a", 2, pci(2), "eth2", "", pending}, {"a", 3, pci(3), "eth3", "", pending}},
			problems: []string{"PCIAddressMismatch"},
		},
		{
			name: "dpdkPCIAddress is none of them so far", edit: statedPCI(pci(3).String()),
			change:   func(w *world) { w.unplug(3) },
			rows:     []brief{{"a", 2, pci(2), "eth2", "", ready}, {"a", 3, "", "", "", pending}},
			problems: []string{"DeviceNotSeen"},
		},
		{
			name: "one is not attached yet", edit: resource("intel.com/x"),
			change:   func(w *world) { w.unplug(3); delete(w.enis, 3) },
			rows:     []brief{{"a", 2, pci(2), "eth2", "intel.com/x", ready}, {"a", -1, "", "", "intel.com/x", pending}},
			problems: []string{"ENINotAttached"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(2, 3)
			w.declare("a", 2, both, tt.edit)
			if tt.change != nil {
				tt.change(w)
			}
			expect(t, w.sync(), tt.problems, tt.rows...)
		})
	}
}

func TestProblemsNameTheWayOut(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1, statedPCI("07.0"), resource("no prefix"), dpdk, func(o *v1alpha1.NodeENI) { o.Spec.DPDKDriver = "mlx5_core"; o.Spec.MTU = -1 })
	want := map[string][]string{
		"InvalidPCIAddress":   {"spec.dpdkPCIAddress", `"07.0"`, "0000:00:07.0"},
		"InvalidResourceName": {"spec.dpdkResourceName", `"no prefix"`, "intel.com/sriov_net"},
		"InvalidDPDKDriver":   {"spec.dpdkDriver", `"mlx5_core"`, "vfio-pci"},
		"InvalidMTU":          {"spec.mtu", "-1", "leave it out"},
	}
	for _, p := range w.join().Problems {
		for _, part := range want[string(p.Reason)] {
			if !strings.Contains(p.Message, part) {
				t.Errorf("%s: message %q lacks %q", p.Reason, p.Message, part)
			}
		}
		delete(want, string(p.Reason))
	}
	if len(want) != 0 {
		t.Errorf("no problem of %v", want)
	}
}

// IMDS lists a detached ENI beside its successor.
func TestTwoENIsAtOneSlot(t *testing.T) {
	stale := func(w *world, n int) {
		w.enis[n] = vpc.ENI{ID: eniID(n), MAC: mac(n), DeviceIndex: 1, SubnetID: subnet(1)}
	}
	t.Run("the one that is plugged in is meant", func(t *testing.T) {
		w := newWorld(1)
		stale(w, 8)
		w.declare("a", 1)
		expect(t, w.sync(), nil, brief{"a", 1, pci(1), "eth1", "", ready})
	})
	t.Run("replaced at the same PCI address", func(t *testing.T) {
		w := newWorld(1)
		w.declare("a", 1, resource("intel.com/x"))
		w.sync()
		stale(w, 8)
		l := w.links[1]
		l.MAC, l.Up = mac(8), false
		w.links[1] = l
		expect(t, w.sync(), nil, brief{"a", 1, "", "", "intel.com/x", draining}, brief{"a", 8, pci(1), "eth1", "intel.com/x", ready})
		expect(t, w.sync(), nil, brief{"a", 8, pci(1), "eth1", "intel.com/x", ready})
	})
	t.Run("replaced, and then nothing can be read", func(t *testing.T) {
		w := newWorld(1)
		w.declare("a", 1)
		w.sync()
		stale(w, 8)
		l := w.links[1]
		l.MAC = mac(8)
		w.links[1] = l
		w.sync()
		w.unknown.enis, w.unknown.links = true, true
		for range 3 {
			expect(t, w.sync(), nil, brief{"a", 8, pci(1), "eth1", "", ready})
		}
	})
	t.Run("both plugged in", func(t *testing.T) {
		w := newWorld(1)
		w.plug(8)
		stale(w, 8)
		w.declare("a", 1)
		expect(t, w.join(), []string{"AmbiguousENI"}, brief{"a", -1, "", "", "", pending})
	})
	t.Run("both plugged in, one was ours before", func(t *testing.T) {
		w := newWorld(1)
		w.declare("a", 1)
		w.sync()
		w.plug(8)
		stale(w, 8)
		expect(t, w.join(), nil, brief{"a", 1, pci(1), "eth1", "", ready})
	})
}

func TestVFIsKnownByItsAddress(t *testing.T) {
	w := newWorld(1)
	w.setFunction(1, func(f *sysfs.PCIFunction) { f.PhysFn = "0000:00:01.0" })
	w.declare("a", 1)
	w.sync()
	l := w.links[1]
	l.MAC = "02:ff:ff:ff:ff:ff" // it was reset
	w.links[1] = l
	r := w.sync()
	expect(t, r, nil, brief{"a", 1, pci(1), "eth1", "", ready})
	if got := r.Devices[0].MAC; got != mac(1) {
		t.Errorf("MAC %s, want the ENI's own %s", got, mac(1))
	}
}

func TestLookAgainWhenTheGraceEnds(t *testing.T) {
	w := newWorld(1, 2)
	w.declare("a", 1, attached(node, 1, 2))
	w.sync()
	w.declare("a", 1, attached(node, 2))
	w.Now = start.Add(time.Minute)
	if got, want := w.join().LookAgain, w.Now.Add(missingGrace); !got.Equal(want) {
		t.Errorf("look again at %v, want %v", got, want)
	}
}

// A device in its grace, placed only by a hint and no longer listed by IMDS, stays with its NodeENI while records or
// IMDS cannot be read.
func TestKeptByAnother(t *testing.T) {
	w := newWorld(1)
	w.declare("b", 1, dpdk, statedPCI(pci(1).String()), resource("intel.com/y"))
	w.bind(1, "vfio-pci")
	kept := brief{"b", 1, pci(1), "", "intel.com/y", ready}
	expect(t, w.join(), nil, kept)
	w.declare("b", 1, attached("node-b", 1))
	delete(w.enis, 1)
	w.declare("c", 1)
	expect(t, w.join(), []string{"ENINotAttached", "NotAttached"}, kept, brief{"c", -1, "", "", "", pending})
	w.unknown.records = true
	expect(t, w.join(), []string{"ENINotAttached", "NotAttached"}, kept, brief{"c", -1, "", "", "", pending})
	w.unknown.records, w.unknown.enis = false, true
	expect(t, w.join(), []string{"NotAttached"}, kept, brief{"c", -1, "", "", "", pending})
}

// Another function with the ENI's MAC does not replace the one where the ENI was before.
func TestTwinKeepsItsAddress(t *testing.T) {
	for _, eni := range []int{1, 2} {
		w := newWorld(eni)
		w.declare("a", eni)
		first := w.sync()
		w.plug(3 - eni)
		l := w.links[3-eni]
		l.MAC = mac(eni)
		w.links[3-eni] = l
		expect(t, w.sync(), nil, briefs(first)...)
	}
}

// IMDS gives two ENIs one MAC: the first by NodeENI name gets the function.
func TestOneFunctionForTwoENIs(t *testing.T) {
	w := newWorld(1)
	w.enis[2] = vpc.ENI{ID: eniID(2), MAC: mac(1), DeviceIndex: 2, SubnetID: subnet(2)}
	w.declare("a", 1)
	w.declare("b", 2)
	w.declare("c", 3) // two without any function do not share one
	w.declare("d", 4)
	w.enis[3] = vpc.ENI{ID: eniID(3), MAC: mac(3), DeviceIndex: 3, SubnetID: subnet(3)}
	w.enis[4] = vpc.ENI{ID: eniID(4), MAC: mac(4), DeviceIndex: 4, SubnetID: subnet(4)}
	expect(t, w.sync(), []string{"DeviceNotSeen", "DeviceNotSeen", "DeviceNotSeen", "PCIAddressShared"},
		brief{"a", 1, pci(1), "eth1", "", ready}, brief{"b", 2, "", "", "", pending}, brief{"c", 3, "", "", "", pending}, brief{"d", 4, "", "", "", pending})
}

// A recorded address does not count if it is known to be another ENI's in this boot, or nothing else knows the ENI.
func TestHintOfAnotherDevice(t *testing.T) {
	w := newWorld(1, 2)
	w.declare("b", 2)
	w.sync()
	w.bind(1, "vfio-pci")
	w.bind(2, "vfio-pci")
	w.declare("a", 1, dpdk, statedPCI(pci(2).String()))
	unplaced := brief{"a", 1, "", "", v1alpha1.DefaultResourceName, pending}
	expect(t, w.join(), []string{"DeviceNotSeen", "DriverMismatch"}, unplaced, brief{"b", 2, pci(2), "", "", pending})
	w.reboot()
	delete(w.objects, "b")
	expect(t, w.join(), nil, brief{"a", 1, pci(2), "", v1alpha1.DefaultResourceName, ready})
	w.Checkpoint = nodestate.Checkpoint{}
	w.declare("a", 5, dpdk, attached(node, 5), statedPCI(pci(1).String()))
	unplaced.ENI = 5
	expect(t, w.join(), []string{"ENINotListed"}, unplaced)
}

// Without any memory, records tell where the ENI of a held or bound device is, even if nothing else in them can be
// understood.
func TestPlacedByRecords(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	w.hold(1, nodestate.ModeExclusive)
	w.records = nil
	w.Unread = nodestate.Unread{{ENIID: eniID(1), PCIAddress: pci(1), BootID: w.BootID}, {PCIAddress: pci(9)}}
	w.Held = map[device.PCIAddress]bool{pci(1): true}
	expect(t, w.join(), nil, brief{"a", 1, pci(1), "", "", ready})

	w = newWorld(1)
	w.declare("a", 1, dpdk, attached(node, 1))
	w.changeDrivers(w.join())
	w.Checkpoint, w.unknown.enis = nodestate.Checkpoint{}, true
	r := w.join()
	expect(t, r, nil, brief{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, ready})
	if d := r.Devices[0]; d.MAC != mac(1) {
		t.Errorf("MAC %q, want the MAC of the restore record", d.MAC)
	}
}

func TestPrimaryLeavesTheInventory(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	w.sync()
	e := w.enis[1]
	e.Primary = true
	w.enis[1] = e
	undeclare(w)
	expect(t, w.join(), nil)
}
