package inventory

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// events can happen to a node's n-th ENI, or to the daemon's view.
var events = []func(w *world, n int){
	func(w *world, n int) { w.declare(name(n), n) },
	func(w *world, n int) { w.declare(name(n), n, resource("intel.com/x")) },
	func(w *world, n int) { w.declare(name(n), n, dpdk, resource("intel.com/y")) },
	func(w *world, n int) { w.declare(name(n), n, dpdk, statedPCI(pci(n).String())) },
	func(w *world, n int) { w.declare(name(n), n, statedPCI(pci(n+1).String())) },
	func(w *world, n int) { w.declare(name(n), n, attached(node, n, n+1)) },
	func(w *world, n int) { w.declare(name(n), n, attached(node, n+1)) },
	func(w *world, n int) { w.declare(name(n), n, attached("node-b", n)) },
	func(w *world, n int) { w.declare(name(n+1), n) },
	func(w *world, n int) { w.declare(name(n), 0, attached(node, 0)) },
	func(w *world, n int) {
		w.declare(name(n), n, func(o *v1alpha1.NodeENI) { o.Spec.SubnetIDs = []string{subnet(n + 1).String()} })
	},
	func(w *world, n int) { delete(w.objects, name(n)) },
	func(w *world, n int) { w.attach(n); w.setUp(n) },
	func(w *world, n int) { w.plug(n) },
	func(w *world, n int) { w.unplug(n) },
	func(w *world, n int) { delete(w.enis, n) },
	func(w *world, n int) { w.attach(n); w.setIndex(n, 0) },
	func(w *world, n int) {
		if _, ok := w.functions[pci(n)]; ok {
			w.bind(n, "vfio-pci")
		}
	},
	func(w *world, _ int) { w.changeDrivers(w.join()) },
	func(w *world, _ int) { w.Checkpoint = nodestate.Checkpoint{} },
	func(w *world, n int) {
		if _, ours := w.taken[pci(n)]; ours && w.functions[pci(n)].UserspaceDriver() {
			w.setFunction(n, func(f *sysfs.PCIFunction) { f.Driver = "" })
		}
	},
	func(w *world, n int) {
		if w.functions[pci(n)].UserspaceDriver() {
			w.hold(n, nodestate.ModeDPDK)
		}
	},
	func(w *world, n int) {
		if _, ok := w.links[n]; ok {
			w.hold(n, nodestate.ModeExclusive)
		}
	},
	func(w *world, n int) { w.hold(n, nodestate.ModeShared) },
	func(w *world, n int) { w.release(n) },
	func(w *world, _ int) { w.reboot(); w.records = nil },
	func(w *world, n int) { w.Now = w.Now.Add(time.Duration(n) * 20 * time.Second) },
	func(w *world, _ int) { w.Withdrawn = !w.Withdrawn },
	func(w *world, n int) { w.Lookup = Lookup(n % 3) },
	func(w *world, n int) { w.Foreign = Known(map[int]string{n + 2: "rule 1536"}) },
	func(w *world, _ int) { w.Foreign = Fact[map[int]string]{} },
	func(w *world, n int) { w.kubelet([]int{n}) },
	func(w *world, n int) { w.kubelet(nil, n) },
	func(w *world, _ int) { w.Kubelet = &Fact[Kubelet]{} },
	func(w *world, _ int) { w.Kubelet = nil },
}

var comparePrefix = cmpopts.EquateComparable(netip.Prefix{})

func name(n int) string { return string(rune('a' + n)) }

// FuzzJoin takes two octets for each event, and checks the invariants after each.
func FuzzJoin(f *testing.F) {
	f.Add([]byte{0, 1, 12, 1, 18, 1, 11, 1, 20, 1})
	f.Add([]byte{5, 1, 12, 1, 12, 2, 6, 1, 22, 3, 22, 1})
	f.Add([]byte{3, 2, 12, 2, 17, 2, 21, 0, 14, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newWorld(1, 2, 3)
		for i := 0; i+1 < len(data) && i < 200; i += 2 {
			events[int(data[i])%len(events)](w, 1+int(data[i+1]>>4)%4)
			checkAlways(t, w, Join(w.sources()))
			checkUnknown(t, w, data[i+1])
			w.sync()
		}
		checkStable(t, w)
	})
}

func TestJoinUnderRandomEvents(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(1, 2, 3)
		for range 40 {
			events[rnd.IntN(len(events))](w, 1+rnd.IntN(4))
			r := Join(w.sources())
			checkAlways(t, w, r)
			checkShuffled(t, w, r, rnd)
			checkUnknown(t, w, byte(rnd.IntN(32)))
			w.sync()
		}
		checkStable(t, w)
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func checkAlways(t *testing.T, w *world, r Result) {
	t.Helper()
	enis, pcis := map[device.ENIID]bool{}, map[device.PCIAddress]bool{}
	for _, d := range r.Devices {
		if d.ENIID == eniID(0) || d.PCIAddress == pci(0) || d.MAC == mac(0) {
			t.Errorf("the primary ENI is in the inventory: %+v", d)
		}
		if d.Phase == ready && (d.MAC == "" || d.PCIAddress == "" || d.Driver == "") {
			t.Errorf("ready, but incomplete: %+v", d)
		}
		if d.ENIID != "" && enis[d.ENIID] || d.PCIAddress != "" && pcis[d.PCIAddress] {
			t.Errorf("two rows for one device: %+v", r.Devices)
		}
		enis[d.ENIID], pcis[d.PCIAddress] = true, true
	}
	for _, l := range r.Idle {
		if l.Link.Name == "eth0" || l.Link.MAC != l.Device.MAC || w.objects[l.Device.NodeENI] == nil {
			t.Errorf("not to be touched: %+v", l)
		}
		if isHeld(w, l.Device.PCIAddress) {
			t.Errorf("a pod has %+v", l)
		}
	}
	for _, d := range r.DriverChanges {
		checkDriverChange(t, w, d)
	}
	for _, before := range w.Checkpoint.Devices {
		if before.Phase != pending && w.Checkpoint.BootID == w.BootID && isHeld(w, before.PCIAddress) && !enis[before.ENIID] {
			t.Errorf("%s is held and was dropped", before.ENIID)
		}
	}
}

func checkDriverChange(t *testing.T, w *world, d DriverChange) {
	t.Helper()
	fn := w.functions[d.Device.PCIAddress]
	taken, ours := w.taken[d.Device.PCIAddress]
	ours = ours && taken.Device.Instance == fn.Instance
	between := ours && fn.Driver == ""
	switch {
	case isHeld(w, d.Device.PCIAddress), d.Device.PCIAddress == pci(0), fn.Driver == d.To:
		t.Errorf("not to be bound: %+v, bound to %q", d, fn.Driver)
	case fn.UserspaceDriver() && !ours:
		t.Errorf("taken from somebody else: %+v", d)
	case !d.Userspace() && (!fn.UserspaceDriver() && !between || d.To != taken.Driver):
		t.Errorf("given back to another driver than %q: %+v", taken.Driver, d)
	case d.Userspace() && !fn.UserspaceDriver() && !between && d.Link.MAC != d.Device.MAC:
		t.Errorf("bound without a proof of what it is: %+v", d)
	}
	if w.Kubelet != nil && w.Kubelet.Known && len(w.Kubelet.Value.Allocated[d.Device.PCIAddress]) > 0 {
		t.Errorf("the kubelet has given it to a pod: %+v", d)
	}
}

func isHeld(w *world, at device.PCIAddress) bool {
	return slices.ContainsFunc(w.records, func(a nodestate.Attachment) bool {
		return a.BootID == w.BootID && a.Device.PCIAddress == at && !a.Device.Replaced(w.functions[at].Instance)
	})
}

// A source that cannot be read removes and withdraws nothing that would stay if it could.
func checkUnknown(t *testing.T, w *world, which byte) {
	t.Helper()
	full := phases(Join(w.sources()))
	blind := *w
	blind.unknown.enis = which&1 != 0
	blind.unknown.functions = which&2 != 0
	blind.unknown.links = which&4 != 0
	blind.unknown.records = which&8 != 0
	if which&16 != 0 {
		blind.objects, blind.Complete = nil, false
	}
	got := phases(Join(blind.sources()))
	for _, before := range w.Checkpoint.Devices {
		if before.Phase != ready || full[before.ENIID] != ready || w.Checkpoint.BootID != w.BootID {
			continue
		}
		if got[before.ENIID] != ready {
			t.Errorf("%s is %q when sources %05b are unknown, was ready and is when they are known", before.ENIID, got[before.ENIID], which)
		}
	}
}

func phases(r Result) map[device.ENIID]nodestate.Phase {
	m := map[device.ENIID]nodestate.Phase{}
	for _, d := range r.Devices {
		m[d.ENIID] = d.Phase
	}
	return m
}

func checkShuffled(t *testing.T, w *world, want Result, rnd *rand.Rand) {
	t.Helper()
	s := w.sources()
	s.NodeENIs, s.ENIs.Value = slices.Clone(s.NodeENIs), slices.Clone(s.ENIs.Value)
	s.Links.Value, s.Attachments.Value = slices.Clone(s.Links.Value), slices.Clone(s.Attachments.Value)
	rnd.Shuffle(len(s.NodeENIs), func(i, k int) { s.NodeENIs[i], s.NodeENIs[k] = s.NodeENIs[k], s.NodeENIs[i] })
	shuffle(rnd, s.ENIs.Value)
	shuffle(rnd, s.Links.Value)
	shuffle(rnd, s.Attachments.Value)
	shuffle(rnd, s.Checkpoint.Devices)
	if diff := cmp.Diff(want, Join(s), comparePrefix, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("another order, another result (-first +shuffled):\n%s", diff)
	}
}

func shuffle[T any](rnd *rand.Rand, s []T) {
	rnd.Shuffle(len(s), func(i, k int) { s[i], s[k] = s[k], s[i] })
}

func checkStable(t *testing.T, w *world) {
	t.Helper()
	w.Withdrawn = true
	w.Now = w.Now.Add(time.Hour)
	for range 3 {
		w.sync()
	}
	first, second := w.join(), w.join()
	if diff := cmp.Diff(first, second, comparePrefix); diff != "" {
		t.Errorf("does not settle (-first +second):\n%s", diff)
	}
}
