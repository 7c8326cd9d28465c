package inventory

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// The names of the n-th ENI of the tests' node, n from 0 (the primary) to 15.
func eniID(n int) device.ENIID     { return device.ENIID(fmt.Sprintf("eni-%017x", n)) }
func mac(n int) device.MAC         { return device.MAC(fmt.Sprintf("02:00:00:00:00:%02x", n)) }
func pci(n int) device.PCIAddress  { return device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", n+5)) }
func subnet(n int) device.SubnetID { return device.SubnetID(fmt.Sprintf("subnet-%017x", n)) }
func prefix(n, bits int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/%d", n, 15*(bits/32)+15, bits))
}

type world struct {
	Sources
	objects   map[string]*v1alpha1.NodeENI
	functions map[device.PCIAddress]sysfs.PCIFunction
	links     map[int]link.Link
	enis      map[int]vpc.ENI
	records   []nodestate.Attachment
	taken     map[device.PCIAddress]nodestate.Restore
	instances uint64 // so many functions were plugged in
	unknown   struct{ enis, functions, links, records bool }
}

const node, boot = "node-a", "boot-1"

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newWorld has a primary ENI, on eth0, and the given secondary ones: plugged in, in IMDS, and with their links down.
func newWorld(secondary ...int) *world {
	w := &world{
		Sources: Sources{Now: start, NodeName: node, BootID: boot, Complete: true, Withdrawn: true},
		objects: map[string]*v1alpha1.NodeENI{}, functions: map[device.PCIAddress]sysfs.PCIFunction{},
		links: map[int]link.Link{}, enis: map[int]vpc.ENI{}, taken: map[device.PCIAddress]nodestate.Restore{},
	}
	w.attach(0)
	w.setUp(0)
	for _, n := range secondary {
		w.attach(n)
	}
	return w
}

func (w *world) attach(n int) {
	w.plug(n)
	w.enis[n] = vpc.ENI{
		ID: eniID(n), MAC: mac(n), DeviceIndex: n, SubnetID: subnet(n), SubnetCIDR: netip.PrefixFrom(prefix(n, 24).Masked().Addr(), 24),
		Addresses: []netip.Prefix{netip.PrefixFrom(prefix(n, 24).Addr(), 24)}, Primary: n == 0,
	}
}

// plug adds PCI function and link, with other numbers than n. A function plugged in there again is another instance.
func (w *world) plug(n int) {
	w.instances++
	name := fmt.Sprintf("eth%d", n)
	w.functions[pci(n)] = sysfs.PCIFunction{
		Address: pci(n), Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", Interfaces: []string{name}, Instance: w.instances,
	}
	w.links[n] = link.Link{Index: n + 2, Name: name, MAC: mac(n), MTU: 1500, Parent: pci(n)}
}

func (w *world) unplug(n int) {
	delete(w.functions, pci(n))
	delete(w.links, n)
}

func (w *world) setUp(n int)           { l := w.links[n]; l.Up = true; w.links[n] = l }
func (w *world) setMTU(n, mtu int)     { l := w.links[n]; l.MTU = mtu; w.links[n] = l }
func (w *world) setIndex(n, index int) { e := w.enis[n]; e.DeviceIndex = index; w.enis[n] = e }
func (w *world) setFunction(n int, f func(*sysfs.PCIFunction)) {
	fn := w.functions[pci(n)]
	f(&fn)
	w.functions[pci(n)] = fn
}

func (w *world) bind(n int, driver string) {
	w.setFunction(n, func(f *sysfs.PCIFunction) { f.Driver, f.Interfaces = driver, nil })
	delete(w.links, n)
}

// changeDrivers changes drivers as the daemon does, and returns how many.
func (w *world) changeDrivers(r Result) int {
	for _, d := range r.DriverChanges {
		n := w.at(d.Device.PCIAddress)
		if d.Userspace() {
			if fn := w.functions[pci(n)]; !fn.UserspaceDriver() {
				w.taken[pci(n)] = nodestate.Restore{BootID: w.BootID, Driver: fn.Driver, Device: nodestate.AttachedDevice{
					PCIAddress: pci(n), Instance: fn.Instance, MAC: d.Device.MAC, ENIID: d.Device.ENIID, NodeENI: d.Device.NodeENI,
				}}
			}
			w.bind(n, d.To)
			continue
		}
		instance := w.functions[pci(n)].Instance
		w.plug(n)
		w.setFunction(n, func(f *sysfs.PCIFunction) { f.Driver, f.Instance = d.To, instance })
	}
	return len(r.DriverChanges)
}

func (w *world) at(addr device.PCIAddress) int {
	for n := range 16 {
		if pci(n) == addr {
			return n
		}
	}
	panic("no ENI of the tests is at " + addr)
}

func (w *world) hold(n int, mode nodestate.Mode) {
	w.records = append(w.records, nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprintf("c%d", n), IfName: "net1"},
		State:        nodestate.StateComplete, BootID: w.BootID, Mode: mode,
		Device: nodestate.AttachedDevice{PCIAddress: pci(n), MAC: mac(n), ENIID: eniID(n), Instance: w.functions[pci(n)].Instance},
	})
	if mode == nodestate.ModeExclusive {
		w.setFunction(n, func(f *sysfs.PCIFunction) { f.Interfaces = nil })
		delete(w.links, n)
	}
}

func (w *world) kubelet(offered []int, given ...int) {
	k := Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{}, Allocated: map[device.PCIAddress][]Container{}}
	for _, n := range offered {
		k.Allocatable["intel.com/x"] = append(k.Allocatable["intel.com/x"], pci(n))
	}
	for _, n := range given {
		k.Allocated[pci(n)] = []Container{{Namespace: "ns", Pod: "p", Container: "c"}}
	}
	known := Known(k)
	w.Kubelet = &known
}

func (w *world) release(n int) {
	w.records = slices.DeleteFunc(w.records, func(a nodestate.Attachment) bool { return a.Device.PCIAddress == pci(n) })
	instance := w.functions[pci(n)].Instance
	w.plug(n)
	w.setFunction(n, func(f *sysfs.PCIFunction) { f.Instance = instance })
}

func (w *world) declare(name string, n int, edit ...func(*v1alpha1.NodeENI)) {
	o := &v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: name}}
	o.Spec.SubnetID, o.Spec.DeviceIndex = subnet(n).String(), n
	for _, f := range edit {
		f(o)
	}
	w.objects[name] = o
}

func resource(name string) func(*v1alpha1.NodeENI) {
	return func(o *v1alpha1.NodeENI) { o.Spec.DPDKResourceName = name }
}

func statedPCI(s string) func(*v1alpha1.NodeENI) {
	return func(o *v1alpha1.NodeENI) { o.Spec.DPDKPCIAddress = s }
}

func dpdk(o *v1alpha1.NodeENI) { o.Spec.EnableDPDK = true }

func attached(nodeName string, enis ...int) func(*v1alpha1.NodeENI) {
	return func(o *v1alpha1.NodeENI) {
		o.Spec.SubnetID, o.Spec.SubnetName = "", "looked-up-elsewhere"
		for _, n := range enis {
			o.Status.Attachments = append(o.Status.Attachments, v1alpha1.ENIAttachment{
				NodeID: nodeName, ENIID: eniID(n).String(), SubnetID: subnet(n).String(), DeviceIndex: n,
			})
		}
	}
}

func (w *world) sources() Sources {
	s := w.Sources
	for _, name := range slices.Sorted(maps.Keys(w.objects)) {
		s.NodeENIs = append(s.NodeENIs, *w.objects[name])
	}
	if !w.unknown.enis {
		s.ENIs = Known(sorted(w.enis))
	}
	if !w.unknown.functions {
		s.Functions = Known(maps.Clone(w.functions))
	}
	if !w.unknown.links {
		s.Links = Known(sorted(w.links))
	}
	if !w.unknown.records {
		s.Attachments = Known(slices.Clone(w.records))
		s.Taken = Known(maps.Clone(w.taken))
	}
	return s
}

func sorted[V any](m map[int]V) []V {
	var all []V
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, m[k])
	}
	return all
}

// join runs one Join, which the next one remembers.
func (w *world) join() Result {
	r := Join(w.sources())
	w.Checkpoint = nodestate.Checkpoint{BootID: w.BootID, Devices: r.Checkpoint}
	return r
}

// sync is join with its idle links brought up in between, as the daemon does.
func (w *world) sync() Result {
	r := Join(w.sources())
	for _, l := range r.Idle {
		n := l.Link.Index - 2
		w.setUp(n)
		if l.Device.MTU != 0 {
			w.setMTU(n, l.Device.MTU)
		}
	}
	return w.join()
}

func (w *world) reboot() {
	w.BootID += "'"
	clear(w.taken)
}

type brief struct {
	NodeENI  string
	ENI      int // -1: not known
	PCI      device.PCIAddress
	If       string
	Resource device.ResourceName
	Phase    nodestate.Phase
}

func briefs(r Result) []brief {
	var all []brief
	for _, d := range r.Devices {
		b := brief{NodeENI: d.NodeENI, ENI: -1, PCI: d.PCIAddress, If: d.InterfaceName, Resource: d.ResourceName, Phase: d.Phase}
		for n := range 16 {
			if d.ENIID == eniID(n) {
				b.ENI = n
			}
		}
		all = append(all, b)
	}
	return all
}

func reasons(r Result) []string {
	var all []string
	for _, p := range r.Problems {
		all = append(all, string(p.Reason))
	}
	slices.Sort(all)
	return all
}

func expect(t *testing.T, r Result, problems []string, rows ...brief) {
	t.Helper()
	if diff := cmp.Diff(rows, briefs(r), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(problems, reasons(r), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("problems (-want +got):\n%s\n%+v", diff, r.Problems)
	}
}

const (
	pending  = nodestate.PhasePending
	ready    = nodestate.PhaseReady
	draining = nodestate.PhaseDraining
)
