package inventory

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// driverChanges returns the drivers that devices are to be bound to.
func driverChanges(r Result) []string {
	var all []string
	for _, d := range r.DriverChanges {
		all = append(all, d.To)
	}
	return all
}

// driverStep is a step that also has the drivers that the device is to be bound to.
type driverStep struct {
	name          string
	change        func(*world)
	rows          []brief
	driverChanges []string
	problems      []string
}

func asKernel(w *world) { w.declare("a", 1, resource("intel.com/x")) }
func asDPDK(w *world)   { w.declare("a", 1, dpdk, resource("intel.com/x")) }
func asUIO(w *world) {
	w.declare("a", 1, dpdk, resource("intel.com/x"), func(o *v1alpha1.NodeENI) { o.Spec.DPDKDriver = "uio_pci_generic" })
}
func unchanged(*world) {}
func rebind(w *world)  { w.changeDrivers(w.join()) }

func xRow(name string, p nodestate.Phase) []brief {
	return []brief{{"a", 1, pci(1), name, "intel.com/x", p}}
}

var boundSteps = []driverStep{
	{"declared", asDPDK, xRow("", pending), []string{"vfio-pci"}, nil},
	{"bound", rebind, xRow("", ready), nil, nil},
}

var driverStories = map[string][]driverStep{
	"removed": append(boundSteps[:2:2],
		driverStep{"removed", undeclare, xRow("", draining), nil, nil},
		driverStep{"withdrawn", unchanged, xRow("", draining), []string{"ena"}, nil},
		driverStep{"given back", rebind, nil, nil, nil},
	),
	"removed while a pod has it": append(boundSteps[:2:2],
		driverStep{"pod", func(w *world) { w.hold(1, nodestate.ModeDPDK) }, xRow("", ready), nil, nil},
		driverStep{"removed", undeclare, xRow("", draining), nil, nil},
		driverStep{"held", unchanged, xRow("", draining), nil, nil},
		driverStep{"pod gone", func(w *world) { w.records = nil }, xRow("", draining), []string{"ena"}, nil},
		driverStep{"given back", rebind, nil, nil, nil},
	),
	"removed while the kubelet offers it": append(boundSteps[:2:2],
		driverStep{"removed", func(w *world) { undeclare(w); w.kubelet([]int{1}, 1) }, xRow("", draining), nil, nil},
		driverStep{"offered", unchanged, xRow("", draining), nil, nil},
		driverStep{"given to a pod", func(w *world) { w.kubelet(nil, 1) }, xRow("", draining), nil, nil},
		driverStep{"cannot be asked", func(w *world) { w.Kubelet = &Fact[Kubelet]{} }, xRow("", draining), nil, nil},
		driverStep{"free", func(w *world) { w.kubelet(nil) }, xRow("", draining), []string{"ena"}, nil},
	),
	"removed before it was bound": {
		{"declared", asDPDK, xRow("", pending), []string{"vfio-pci"}, nil},
		{"removed", undeclare, nil, nil, nil},
		{"bound all the same", func(w *world) {
			w.taken[pci(1)] = nodestate.Restore{Driver: "ena", Device: nodestate.AttachedDevice{
				Instance: w.functions[pci(1)].Instance, PCIAddress: pci(1), MAC: mac(1), ENIID: eniID(1),
			}}
			w.bind(1, "vfio-pci")
		}, nil, []string{"ena"}, nil},
	},
	"removed while the restore records cannot be read": append(boundSteps[:2:2],
		driverStep{"removed", undeclare, xRow("", draining), nil, nil},
		driverStep{"unreadable", func(w *world) { w.unknown.records = true }, xRow("", draining), nil, nil},
		driverStep{"readable", func(w *world) { w.unknown.records = false }, xRow("", draining), []string{"ena"}, nil},
	),
	"DPDK switched off": append(boundSteps[:2:2],
		driverStep{"off", asKernel, xRow("", draining), nil, nil},
		driverStep{"withdrawn", unchanged, xRow("", draining), []string{"ena"}, nil},
		driverStep{"given back", rebind, xRow("eth1", ready), nil, nil},
	),
	"DPDK switched off and on again": append(boundSteps[:2:2],
		driverStep{"off", asKernel, xRow("", draining), nil, nil},
		driverStep{"on", asDPDK, xRow("", ready), nil, nil},
	),
	"DPDK switched on for a device that pods use": {
		{"kernel", asKernel, xRow("eth1", ready), nil, nil},
		{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, xRow("eth1", ready), nil, nil},
		{"on", asDPDK, xRow("", draining), nil, []string{"DriverNotBound"}},
		{"pod gone", func(w *world) { w.release(1) }, xRow("", draining), []string{"vfio-pci"}, nil},
		{"bound", rebind, xRow("", ready), nil, nil},
	},
	"DPDK switched on while the device plugin serves the config before": {
		{"kernel", asKernel, xRow("eth1", ready), nil, nil},
		{"on", func(w *world) { asDPDK(w); w.Withdrawn = false }, xRow("", draining), nil, nil},
		{"still served", unchanged, xRow("", draining), nil, nil},
		{"no more", func(w *world) { w.Withdrawn = true }, xRow("", draining), []string{"vfio-pci"}, nil},
		{"off again", asKernel, xRow("eth1", ready), nil, nil},
	},
	"another userspace driver": append(boundSteps[:2:2],
		driverStep{"edited", asUIO, xRow("", draining), nil, nil},
		driverStep{"withdrawn", unchanged, xRow("", draining), []string{"uio_pci_generic"}, nil},
		driverStep{"bound", rebind, xRow("", ready), nil, nil},
		driverStep{"removed", undeclare, xRow("", draining), nil, nil},
		driverStep{"withdrawn again", unchanged, xRow("", draining), []string{"ena"}, nil},
	),
	"the checkpoint is lost": append(boundSteps[:2:2],
		driverStep{"lost", func(w *world) { w.Checkpoint = nodestate.Checkpoint{} }, xRow("", ready), nil, nil},
		driverStep{"lost, and removed", func(w *world) { w.Checkpoint = nodestate.Checkpoint{}; undeclare(w) }, nil, []string{"ena"}, nil},
	),
	"the checkpoint is lost, removed, and the kubelet has given it to a pod": append(boundSteps[:2:2],
		driverStep{"given", func(w *world) { w.Checkpoint = nodestate.Checkpoint{}; undeclare(w); w.kubelet(nil, 1) }, nil, nil, nil},
		driverStep{"the pod is gone", func(w *world) { w.kubelet(nil) }, nil, []string{"ena"}, nil},
	),
	"the checkpoint is lost, and its NodeENI may mean more than is understood": append(boundSteps[:2:2],
		driverStep{"undecided", func(w *world) {
			w.Checkpoint = nodestate.Checkpoint{}
			w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = "none" })
		}, nil, nil, []string{"InvalidSubnetID"}},
		driverStep{"the record does not name its NodeENI", func(w *world) {
			rec := w.taken[pci(1)]
			rec.Device.NodeENI = ""
			w.taken[pci(1)] = rec
		}, nil, nil, []string{"InvalidSubnetID"}},
		driverStep{"it is another's", func(w *world) {
			rec := w.taken[pci(1)]
			rec.Device.NodeENI = "b"
			w.taken[pci(1)] = rec
		}, nil, []string{"ena"}, []string{"InvalidSubnetID"}},
	),
	"the checkpoint is lost, and the NodeENIs cannot be read": append(boundSteps[:2:2],
		driverStep{"lost", func(w *world) { w.Checkpoint = nodestate.Checkpoint{}; undeclare(w); w.Complete = false }, nil, nil, nil},
	),
	"the NodeENIs cannot be read": append(boundSteps[:2:2],
		driverStep{"unreadable", func(w *world) { undeclare(w); w.Complete = false }, xRow("", ready), nil, nil},
	),
	"stopped between two drivers": append(boundSteps[:2:2],
		driverStep{"stopped", func(w *world) { w.setFunction(1, func(f *sysfs.PCIFunction) { f.Driver = "" }) }, xRow("", draining), nil, nil},
		driverStep{"withdrawn", unchanged, xRow("", draining), []string{"vfio-pci"}, nil},
		driverStep{"off", asKernel, xRow("", draining), []string{"ena"}, nil},
		driverStep{"removed", undeclare, xRow("", draining), []string{"ena"}, nil},
		driverStep{"given back", rebind, nil, nil, nil},
	),
	"stopped between two drivers, the checkpoint lost, removed": append(boundSteps[:2:2],
		driverStep{"stopped", func(w *world) {
			w.setFunction(1, func(f *sysfs.PCIFunction) { f.Driver = "" })
			w.Checkpoint = nodestate.Checkpoint{}
			undeclare(w)
		}, nil, []string{"ena"}, nil},
	),
	"rebooted": append(boundSteps[:2:2],
		driverStep{"rebooted", func(w *world) { w.reboot(); w.plug(1) }, xRow("", pending), []string{"vfio-pci"}, nil},
	),
	"another device in its place": append(boundSteps[:2:2],
		driverStep{"replaced", func(w *world) {
			w.plug(1)
			l := w.links[1]
			l.MAC = mac(9)
			w.links[1] = l
		}, xRow("", draining), nil, []string{"DeviceGone"}},
	),
	"another device in its place, whose pod lives": append(boundSteps[:2:2],
		driverStep{"pod", func(w *world) { w.hold(1, nodestate.ModeDPDK) }, xRow("", ready), nil, nil},
		driverStep{"replaced", func(w *world) {
			w.plug(1)
			l := w.links[1]
			l.MAC = mac(9)
			w.links[1] = l
		}, xRow("", draining), nil, []string{"DeviceGone"}},
	),
	"another device in its place, whose netdev is not there yet": append(boundSteps[:2:2],
		driverStep{"replaced", func(w *world) {
			w.plug(1)
			w.bind(1, "")
		}, xRow("", draining), nil, []string{"DeviceGone"}},
	),
	"another device in its place, which somebody else has bound": append(boundSteps[:2:2],
		driverStep{"replaced", func(w *world) {
			w.plug(1)
			w.bind(1, "vfio-pci")
			undeclare(w)
		}, xRow("", draining), nil, nil},
		driverStep{"withdrawn", unchanged, nil, nil, nil},
	),
}

// The resource's devices, the pods and the kubelet are in the way one after the other.
func TestDriverChange(t *testing.T) {
	for name, steps := range driverStories {
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
