package inventory

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// slotOf is the controller's entry for the n-th ENI of the NodeENI "a", attached.
func slotOf(n int, edit ...func(*Entry)) Entry {
	e := Entry{Slot: fmt.Sprintf("%016x", n), NodeENI: "a", Phase: "Attached", ENI: vpc.ENI{
		ID: eniID(n), MAC: mac(n), DeviceIndex: n, SubnetID: subnet(n), SubnetCIDR: netip.PrefixFrom(prefix(n, 24).Masked().Addr(), 24),
		Addresses: []netip.Prefix{netip.PrefixFrom(prefix(n, 24).Addr(), 24)},
	}}
	for _, f := range edit {
		f(&e)
	}
	return e
}

func wantedBack(e *Entry) { e.Released, e.Phase = true, "Draining" }

// controlled has ENI 1, up, by an entry of NodeENI "a" with a resource, and IMDS that knows no secondary ENI.
func controlled() *world {
	w := newWorld(1)
	w.setUp(1)
	w.Lookup = LookupEntries
	w.declare("a", 1, resource("intel.com/x"))
	w.Entries = []Entry{slotOf(1)}
	delete(w.enis, 1)
	return w
}

func freed(r Result) (all []string) {
	for _, f := range r.Released {
		all = append(all, fmt.Sprintf("%s %s %s", f.Slot, f.ENI, f.PCI))
	}
	return all
}

// TestEntryNeedsNoMetadata: the device is ready when its link is up, whatever IMDS says by then.
func TestEntryNeedsNoMetadata(t *testing.T) {
	for name, change := range map[string]func(*world){
		"not listed":       func(*world) {},
		"unreadable":       func(w *world) { w.unknown.enis = true },
		"listed, no index": func(w *world) { w.enis[1] = vpc.ENI{ID: eniID(1), MAC: mac(1), DeviceIndex: -1, NetworkCard: -1} },
		"only its MAC":     func(w *world) { w.enis[1] = vpc.ENI{MAC: mac(1), DeviceIndex: -1, NetworkCard: -1} },
	} {
		w := controlled()
		w.enis[0] = vpc.ENI{ID: eniID(0), MAC: mac(0), Primary: true, VPCCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		change(w)
		r := w.join()
		expect(t, r, nil, aReady)
		want := nodestate.Device{DeviceIndex: 1, SubnetID: subnet(1), Addresses: slotOf(1).ENI.Addresses}
		got := r.Devices[0]
		if diff := cmp.Diff(want, nodestate.Device{DeviceIndex: got.DeviceIndex, SubnetID: got.SubnetID, Addresses: got.Addresses},
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if known := len(got.VPCCIDRs) == 1; known == w.unknown.enis {
			t.Errorf("%s: VPCCIDRs %v", name, got.VPCCIDRs)
		}
	}
}

func TestEntryIsAwaited(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Entry)
		plug bool
		rows []brief
		want string
	}{
		{"wanted", func(e *Entry) { e.ENI = vpc.ENI{SubnetID: subnet(1), DeviceIndex: 1}; e.Phase = "Wanted" }, true,
			[]brief{{"a", -1, "", "", "intel.com/x", pending}}, "the controller has not attached the ENI in " + subnet(1).String() + " yet: phase Wanted"},
		{"blocked", func(e *Entry) {
			e.ENI = vpc.ENI{SubnetID: subnet(1), DeviceIndex: 1}
			e.Phase, e.Reason, e.Message = "Blocked", "SubnetFull", "no free address; add a subnet"
		}, true, []brief{{"a", -1, "", "", "intel.com/x", pending}}, "phase Blocked, SubnetFull: no free address; add a subnet"},
		{"attaching, not there", func(e *Entry) { e.Phase = "Attaching" }, false, []brief{{"a", 1, "", "", "intel.com/x", pending}}, "phase Attaching"},
		{"attaching, there already", func(e *Entry) { e.Phase = "Attaching" }, true, []brief{aReady}, ""},
		{"the status says still that it is released", func(e *Entry) { e.Withheld = true }, true, []brief{{"a", 1, pci(1), "eth1", "intel.com/x", pending}}, ""},
	} {
		w := controlled()
		if !tt.plug {
			w.unplug(1)
		}
		w.Entries = []Entry{slotOf(1, tt.edit)}
		r := w.join()
		var reasons []string
		if tt.want != "" {
			reasons = []string{"NotAttached"}
		}
		expect(t, r, reasons, tt.rows...)
		if tt.want != "" && !strings.Contains(r.Problems[0].Message, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, r.Problems[0].Message, tt.want)
		}
	}
}

type releaseStep struct {
	name     string
	change   func(*world)
	rows     []brief
	problems []string
	freed    []string
}

func back(w *world) {
	delete(w.objects, "a")
	w.Entries = []Entry{slotOf(1, wantedBack)}
}

func fresh(yes bool) func(*world) { return func(w *world) { w.Kubelet.Value.Fresh = yes } }

var oneFreed = []string{fmt.Sprintf("%016x %s %s", 1, eniID(1), pci(1))}

// releaseSteps are removals; each step begins with the state of the one before.
var releaseSteps = map[string][]releaseStep{
	"nobody has it": {
		{"wanted back", back, []brief{aDraining}, nil, nil},
		{"drained", func(*world) {}, nil, nil, oneFreed},
		{"again", func(*world) {}, nil, nil, oneFreed},
		{"wanted after all", func(w *world) {
			w.declare("a", 1, resource("intel.com/x"))
			w.Entries = []Entry{slotOf(1)}
		}, []brief{aReady}, nil, nil},
		{"wanted back again", back, []brief{aDraining}, nil, nil},
		{"the last Detach", func(w *world) { w.unplug(1) }, nil, nil, oneFreed},
		{"the entry has gone", func(w *world) { w.Entries = nil }, nil, nil, nil},
	},
	"a pod has it": {
		{"wanted back", func(w *world) { back(w); w.hold(1, nodestate.ModeExclusive) }, []brief{aDraining}, nil, nil},
		{"still", func(*world) {}, []brief{aDraining}, nil, nil},
		{"its pod has ended", func(w *world) { w.release(1) }, nil, nil, oneFreed},
		{"the records cannot be read", func(w *world) { w.unknown.records = true }, nil, nil, nil},
		{"nor sysfs", func(w *world) { w.unknown.records, w.unknown.functions = false, true }, nil, nil, nil},
		{"nor the list itself", func(w *world) { w.unknown.functions, w.Complete = false, false }, nil, nil, nil},
		{"all can", func(w *world) { w.Complete = true }, nil, nil, oneFreed},
	},
	"with a kubelet": {
		{"wanted back", func(w *world) { back(w); w.kubelet(nil, 1) }, []brief{aDraining}, nil, nil},
		{"it cannot be asked", func(w *world) { w.Kubelet = &Fact[Kubelet]{} }, []brief{aDraining}, nil, nil},
		{"it has just started, and lists no holder yet", func(w *world) { w.kubelet(nil); fresh(true)(w) }, []brief{aDraining}, []string{"ReleaseWaits"}, nil},
		{"it lists one", func(w *world) { w.kubelet(nil, 1) }, []brief{aDraining}, nil, nil},
		{"none any more", func(w *world) { w.kubelet(nil) }, nil, nil, oneFreed},
		{"another restart", fresh(true), nil, []string{"ReleaseWaits"}, nil},
		{"but it was released before", func(w *world) { w.Freed = map[device.ENIID]bool{eniID(1): true} }, nil, nil, oneFreed},
	},
	"the entry vanishes": {
		{"at once", func(w *world) { w.Entries = nil }, []brief{aDraining}, nil, nil},
		{"drained", func(*world) {}, nil, nil, nil},
	},
	"the entry cannot be read": {
		{"held", func(w *world) { w.Entries, w.UnreadENIs = nil, []device.ENIID{eniID(1)} }, []brief{aReady}, nil, nil},
		{"while another is removed", func(w *world) { delete(w.objects, "a") }, []brief{aReady}, nil, nil},
		{"it can", func(w *world) { w.UnreadENIs = nil; back(w) }, []brief{aDraining}, nil, nil},
	},
	"the checkpoint is lost, a pod has the device": {
		{"wanted back", func(w *world) {
			back(w)
			w.hold(1, nodestate.ModeExclusive)
			w.Checkpoint = nodestate.Checkpoint{BootID: boot}
		}, nil, []string{"ReleaseWaits"}, nil},
		{"its pod has ended", func(w *world) { w.release(1) }, nil, nil, oneFreed},
	},
	"bound by the daemon": {
		{"bound", func(w *world) {
			w.declare("a", 1, resource("intel.com/x"), dpdk)
			w.changeDrivers(w.join())
			w.changeDrivers(w.join())
		},
			[]brief{{"a", 1, pci(1), "", "intel.com/x", ready}}, nil, nil},
		{"wanted back", back, []brief{{"a", 1, pci(1), "", "intel.com/x", draining}}, nil, nil},
		{"its driver changes", func(*world) {}, []brief{{"a", 1, pci(1), "", "intel.com/x", draining}}, nil, nil},
		{"returned", func(w *world) { w.changeDrivers(w.join()) }, nil, nil, oneFreed},
	},
}

func TestEntryReleased(t *testing.T) {
	for name, steps := range releaseSteps {
		t.Run(name, func(t *testing.T) {
			w := controlled()
			expect(t, w.join(), nil, aReady)
			for _, s := range steps {
				s.change(w)
				r := w.join()
				t.Log(s.name)
				expect(t, r, s.problems, s.rows...)
				if diff := cmp.Diff(s.freed, freed(r), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: released (-want +got):\n%s", s.name, diff)
				}
			}
		})
	}
}

// TestEntriesAnyOrder: whatever happens, an ENI is released only where nothing has it, and then is in no row.
func TestEntriesAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test
	for range 300 {
		w := controlled()
		w.attach(2)
		w.setUp(2)
		held := map[int]bool{}
		for range 40 {
			n := 1 + rng.IntN(2)
			switch rng.IntN(9) {
			case 0:
				w.Entries = slices.DeleteFunc(w.Entries, func(e Entry) bool { return e.ENI.ID == eniID(n) })
				w.Entries = append(w.Entries, slotOf(n))
			case 1:
				w.Entries = slices.DeleteFunc(w.Entries, func(e Entry) bool { return e.ENI.ID == eniID(n) })
				w.Entries = append(w.Entries, slotOf(n, wantedBack))
			case 2:
				r := Join(w.sources())
				ready := slices.ContainsFunc(r.Devices, func(d nodestate.Device) bool { return d.ENIID == eniID(n) && d.Phase == nodestate.PhaseReady })
				if ready && !held[n] {
					w.hold(n, nodestate.ModeExclusive)
					held[n] = true
				}
			case 3:
				if held[n] {
					w.release(n)
					w.setUp(n)
					held[n] = false
				}
			case 4:
				w.unknown.records = rng.IntN(2) == 0
			case 5:
				w.unknown.enis = rng.IntN(2) == 0
			case 6:
				w.Complete = rng.IntN(3) > 0
			case 7:
				w.Checkpoint = nodestate.Checkpoint{BootID: boot}
			case 8:
				delete(w.enis, n)
			}
			r := w.join()
			for _, f := range r.Released {
				for n := range 3 {
					if f.ENI == eniID(n) && held[n] || slices.ContainsFunc(r.Devices, func(d nodestate.Device) bool { return d.ENIID == f.ENI }) {
						t.Fatalf("seed %d: %s is released, held %v, rows %+v", seed, f.ENI, held, briefs(r))
					}
				}
			}
		}
	}
}
