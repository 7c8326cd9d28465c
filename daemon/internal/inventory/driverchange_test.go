package inventory

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// driverChanges returns what is to be bound to which driver: all tests but one have
// only one device.
func driverChanges(r Result) []string {
	var all []string
	for _, d := range r.DriverChanges {
		all = append(all, d.To)
	}
	return all
}

// TestDriverChange follows a device between drivers. The resource's devices, the pods
// and the kubelet are in the way one after the other.
func TestDriverChange(t *testing.T) {
	kernel := func(w *world) { w.declare("a", 1, resource("intel.com/x")) }
	userspace := func(w *world) { w.declare("a", 1, dpdk, resource("intel.com/x")) }
	uio := func(w *world) {
		w.declare("a", 1, dpdk, resource("intel.com/x"), func(o *v1alpha1.NodeENI) { o.Spec.DPDKDriver = "uio_pci_generic" })
	}
	row := func(name string, p nodestate.Phase) []brief { return []brief{{"a", 1, pci(1), name, "intel.com/x", p}} }
	nothing := func(*world) {}
	rebound := func(w *world) { w.changeDrivers(w.join()) }
	type step struct {
		name          string
		change        func(*world)
		rows          []brief
		driverChanges []string
		problems      []string
	}
	bound := []step{
		{"declared", userspace, row("", pending), []string{"vfio-pci"}, nil},
		{"bound", rebound, row("", ready), nil, nil},
	}
	tests := map[string][]step{
		"removed": append(bound[:2:2],
			step{"removed", undeclare, row("", draining), nil, nil},
			step{"withdrawn", nothing, row("", draining), []string{"ena"}, nil},
			step{"given back", rebound, nil, nil, nil},
		),
		"removed while a pod has it": append(bound[:2:2],
			step{"pod", func(w *world) { w.hold(1, nodestate.ModeDPDK) }, row("", ready), nil, nil},
			step{"removed", undeclare, row("", draining), nil, nil},
			step{"held", nothing, row("", draining), nil, nil},
			step{"pod gone", func(w *world) { w.records = nil }, row("", draining), []string{"ena"}, nil},
			step{"given back", rebound, nil, nil, nil},
		),
		"removed while the kubelet offers it": append(bound[:2:2],
			step{"removed", func(w *world) { undeclare(w); w.kubelet([]int{1}, 1) }, row("", draining), nil, nil},
			step{"offered", nothing, row("", draining), nil, nil},
			step{"given to a pod", func(w *world) { w.kubelet(nil, 1) }, row("", draining), nil, nil},
			step{"cannot be asked", func(w *world) { w.Kubelet = &Fact[Kubelet]{} }, row("", draining), nil, nil},
			step{"free", func(w *world) { w.kubelet(nil) }, row("", draining), []string{"ena"}, nil},
		),
		"removed before it was bound": {
			{"declared", userspace, row("", pending), []string{"vfio-pci"}, nil},
			{"removed", undeclare, nil, nil, nil},
			{"bound all the same", func(w *world) {
				w.taken[pci(1)] = nodestate.Restore{Driver: "ena", Device: nodestate.AttachedDevice{Instance: w.functions[pci(1)].Instance, PCIAddress: pci(1), MAC: mac(1), ENIID: eniID(1)}}
				w.bind(1, "vfio-pci")
			}, nil, []string{"ena"}, nil},
		},
		"removed while the restore records cannot be read": append(bound[:2:2],
			step{"removed", undeclare, row("", draining), nil, nil},
			step{"unreadable", func(w *world) { w.unknown.records = true }, row("", draining), nil, nil},
			step{"readable", func(w *world) { w.unknown.records = false }, row("", draining), []string{"ena"}, nil},
		),
		"DPDK switched off": append(bound[:2:2],
			step{"off", kernel, row("", draining), nil, nil},
			step{"withdrawn", nothing, row("", draining), []string{"ena"}, nil},
			step{"given back", rebound, row("eth1", ready), nil, nil},
		),
		"DPDK switched off and on again": append(bound[:2:2],
			step{"off", kernel, row("", draining), nil, nil},
			step{"on", userspace, row("", ready), nil, nil},
		),
		"DPDK switched on for a device that pods use": {
			{"kernel", kernel, row("eth1", ready), nil, nil},
			{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, row("eth1", ready), nil, nil},
			{"on", userspace, row("", draining), nil, []string{"DriverNotBound"}},
			{"pod gone", func(w *world) { w.release(1) }, row("", draining), []string{"vfio-pci"}, nil},
			{"bound", rebound, row("", ready), nil, nil},
		},
		"DPDK switched on while the device plugin serves the config before": {
			{"kernel", kernel, row("eth1", ready), nil, nil},
			{"on", func(w *world) { userspace(w); w.Withdrawn = false }, row("", draining), nil, nil},
			{"still served", nothing, row("", draining), nil, nil},
			{"no more", func(w *world) { w.Withdrawn = true }, row("", draining), []string{"vfio-pci"}, nil},
			{"off again", kernel, row("eth1", ready), nil, nil},
		},
		"another userspace driver": append(bound[:2:2],
			step{"edited", uio, row("", draining), nil, nil},
			step{"withdrawn", nothing, row("", draining), []string{"uio_pci_generic"}, nil},
			step{"bound", rebound, row("", ready), nil, nil},
			step{"removed", undeclare, row("", draining), nil, nil},
			step{"withdrawn again", nothing, row("", draining), []string{"ena"}, nil},
		),
		"the checkpoint is lost": append(bound[:2:2],
			step{"lost", func(w *world) { w.Checkpoint = nodestate.Checkpoint{} }, row("", ready), nil, nil},
			step{"lost, and removed", func(w *world) { w.Checkpoint = nodestate.Checkpoint{}; undeclare(w) }, nil, []string{"ena"}, nil},
		),
		"the checkpoint is lost, removed, and the kubelet has given it to a pod": append(bound[:2:2],
			step{"given", func(w *world) { w.Checkpoint = nodestate.Checkpoint{}; undeclare(w); w.kubelet(nil, 1) }, nil, nil, nil},
			step{"the pod is gone", func(w *world) { w.kubelet(nil) }, nil, []string{"ena"}, nil},
		),
		"the checkpoint is lost, and its NodeENI may mean more than is understood": append(bound[:2:2],
			step{"undecided", func(w *world) {
				w.Checkpoint = nodestate.Checkpoint{}
				w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = "none" })
			}, nil, nil, []string{"InvalidSubnetID"}},
			step{"the record does not name its NodeENI", func(w *world) {
				rec := w.taken[pci(1)]
				rec.Device.NodeENI = ""
				w.taken[pci(1)] = rec
			}, nil, nil, []string{"InvalidSubnetID"}},
			step{"it is another's", func(w *world) {
				rec := w.taken[pci(1)]
				rec.Device.NodeENI = "b"
				w.taken[pci(1)] = rec
			}, nil, []string{"ena"}, []string{"InvalidSubnetID"}},
		),
		"the checkpoint is lost, and the NodeENIs cannot be read": append(bound[:2:2],
			step{"lost", func(w *world) { w.Checkpoint = nodestate.Checkpoint{}; undeclare(w); w.Complete = false }, nil, nil, nil},
		),
		"the NodeENIs cannot be read": append(bound[:2:2],
			step{"unreadable", func(w *world) { undeclare(w); w.Complete = false }, row("", ready), nil, nil},
		),
		"stopped between two drivers": append(bound[:2:2],
			step{"stopped", func(w *world) {
				w.setFunction(1, func(f *sysfs.PCIFunction) { f.Driver = "" })
			}, row("", draining), nil, nil},
			step{"withdrawn", nothing, row("", draining), []string{"vfio-pci"}, nil},
			step{"off", kernel, row("", draining), []string{"ena"}, nil},
			step{"removed", undeclare, row("", draining), []string{"ena"}, nil},
			step{"given back", rebound, nil, nil, nil},
		),
		"stopped between two drivers, the checkpoint lost, removed": append(bound[:2:2],
			step{"stopped", func(w *world) {
				w.setFunction(1, func(f *sysfs.PCIFunction) { f.Driver = "" })
				w.Checkpoint = nodestate.Checkpoint{}
				undeclare(w)
			}, nil, []string{"ena"}, nil},
		),
		"rebooted": append(bound[:2:2],
			step{"rebooted", func(w *world) { w.reboot(); w.plug(1) }, row("", pending), []string{"vfio-pci"}, nil},
		),
		"another device in its place": append(bound[:2:2],
			step{"replaced", func(w *world) {
				w.plug(1)
				l := w.links[1]
				l.MAC = mac(9)
				w.links[1] = l
			}, row("", draining), nil, []string{"DeviceGone"}},
		),
		"another device in its place, whose pod lives": append(bound[:2:2],
			step{"pod", func(w *world) { w.hold(1, nodestate.ModeDPDK) }, row("", ready), nil, nil},
			step{"replaced", func(w *world) {
				w.plug(1)
				l := w.links[1]
				l.MAC = mac(9)
				w.links[1] = l
			}, row("", draining), nil, []string{"DeviceGone"}},
		),
		"another device in its place, whose netdev is not there yet": append(bound[:2:2],
			step{"replaced", func(w *world) {
				w.plug(1)
				w.bind(1, "")
			}, row("", draining), nil, []string{"DeviceGone"}},
		),
		"another device in its place, which somebody else has bound": append(bound[:2:2],
			step{"replaced", func(w *world) {
				w.plug(1)
				w.bind(1, "vfio-pci")
				undeclare(w)
			}, row("", draining), nil, nil},
			step{"withdrawn", nothing, nil, nil, nil},
		),
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1)
			for _, s := range steps {
				t.Log(s.name)
				s.change(w)
				r := w.sync()
				expect(t, r, s.problems, s.rows...)
				if diff := cmp.Diff(s.driverChanges, driverChanges(r), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("driverChanges (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestTakenKeepsWhatItWas: while a device is bound, its row and the checkpoint
// tell what it was in the host.
func TestTakenKeepsWhatItWas(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1, dpdk)
	w.changeDrivers(w.join())
	r := w.join()
	if d := r.Devices[0]; d.InterfaceName != "" || d.Driver != "vfio-pci" || d.MAC != mac(1) || d.PCIAddress != pci(1) {
		t.Errorf("row %+v", d)
	}
	if c := r.Checkpoint[0]; c.InterfaceName != "eth1" {
		t.Errorf("checkpoint has interface %q, want eth1", c.InterfaceName)
	}
}
