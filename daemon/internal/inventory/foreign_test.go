package inventory

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const table2 = "route table 2 leads out of it"

func (w *world) guard(marked ...int) {
	w.Lookup = LookupGuarded
	foreign := map[int]string{}
	for _, n := range marked {
		foreign[w.links[n].Index] = table2
	}
	w.Foreign = Known(foreign)
}

func (w *world) quiet(n int, d time.Duration) {
	w.Unmarked = map[int]time.Duration{w.links[n].Index: d}
}

func (w *world) tag(n int, nodeENI string) {
	e := w.enis[n]
	e.Described, e.NodeENI = true, nodeENI
	w.enis[n] = e
}

func TestForeign(t *testing.T) {
	tests := map[string][]step{
		"a fresh ENI waits, and is taken": {
			{"seen", func(w *world) {}, []brief{{"a", -1, "", "", "intel.com/x", pending}}, nil},
			{"for a while", func(w *world) { w.quiet(1, quietTime-time.Second) }, []brief{{"a", -1, "", "", "intel.com/x", pending}}, nil},
			{"for long enough", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
			{"it stays", func(w *world) { w.quiet(1, 0) }, []brief{aReady}, nil},
		},
		"a reboot": {
			{"taken", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
			{"ours at once", func(w *world) { w.quiet(1, 0); w.BootID = "boot-2" }, []brief{aReady}, nil},
			{"but not with marks", func(w *world) { w.guard(1); w.BootID = "boot-3" }, []brief{{"a", -1, "", "", "intel.com/x", pending}}, []string{"ForeignENI"}},
		},
		"the VPC CNI sets up its ENI while it waits": {
			{"seen", func(w *world) {}, []brief{{"a", -1, "", "", "intel.com/x", pending}}, nil},
			{"marked", func(w *world) { w.guard(1) }, []brief{{"a", -1, "", "", "intel.com/x", pending}}, []string{"ForeignENI"}},
		},
		"the VPC CNI sets up its ENI late": {
			{"taken", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
			{"marked", func(w *world) { w.guard(1); w.Withdrawn = false }, []brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, []string{"ForeignENI"}},
			{"its marks cannot be read", func(w *world) { w.Foreign = Fact[map[int]string]{} }, []brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, nil},
			{"marked still", func(w *world) { w.guard(1) }, []brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, []string{"ForeignENI"}},
			{"withdrawn", served(true), []brief{{"a", -1, "", "", "intel.com/x", pending}}, []string{"ForeignENI"}},
			{"the marks are gone", func(w *world) { w.guard(); w.quiet(1, 0) }, []brief{{"a", -1, "", "", "intel.com/x", pending}}, nil},
			{"for long enough", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
		},
		"marks that come and go while it drains": {
			{"taken", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
			{"marked", func(w *world) { w.guard(1); w.Withdrawn = false }, []brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, []string{"ForeignENI"}},
			{"gone", func(w *world) { w.guard(); w.quiet(1, time.Second) }, []brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, nil},
			{"for long enough", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
		},
		"a pod has it": {
			{"taken", func(w *world) { w.quiet(1, quietTime) }, []brief{aReady}, nil},
			{"its link may have any marks", func(w *world) { w.hold(1, nodestate.ModeShared); w.attachAgain(1); w.guard(1) }, []brief{aReady}, nil},
			{"records unreadable", func(w *world) { w.unknown.records = true }, []brief{aReady}, nil},
			{"the pod has ended, and they are still there", func(w *world) { w.unknown.records = false; w.release(1); w.attachAgain(1) },
				[]brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, []string{"ForeignENI"}},
		},
		"EC2 knows the tag": {
			{"ours at once, whatever is on the link", func(w *world) { w.guard(1); w.tag(1, "a") }, []brief{aReady}, nil},
			{"of another NodeENI", func(w *world) { w.tag(1, "b") }, []brief{{"a", -1, "", "", "intel.com/x", pending}, aDraining}, []string{"ForeignENI"}},
			{"without one", func(w *world) { w.tag(1, ""); w.guard() }, []brief{{"a", -1, "", "", "intel.com/x", pending}}, []string{"ForeignENI"}},
			{"ours again", func(w *world) { w.tag(1, "a") }, []brief{aReady}, nil},
			{"a pod has it", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, []brief{aReady}, nil},
			{"the tag is taken away", func(w *world) { w.tag(1, "") }, []brief{aReady}, []string{"ForeignENI"}},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1)
			w.setUp(1)
			w.guard()
			w.declare("a", 1, resource("intel.com/x"))
			for _, s := range steps {
				s.change(w)
				r := w.sync()
				t.Run(s.name, func(t *testing.T) { expect(t, r, s.problems, s.rows...) })
				for _, l := range r.Idle {
					if l.Device.Phase == draining {
						t.Errorf("%s: the link of a draining device may be changed", s.name)
					}
				}
			}
		})
	}
}

func (w *world) attachAgain(n int) {
	instance := w.functions[pci(n)].Instance
	w.plug(n)
	w.setUp(n)
	fn := w.functions[pci(n)]
	fn.Instance = instance
	w.functions[pci(n)] = fn
}

func TestForeignLooksAgain(t *testing.T) {
	w := newWorld(1)
	w.guard()
	w.declare("a", 1)
	w.quiet(1, 10*time.Second)
	if got, want := w.join().LookAgain, w.Now.Add(quietTime-10*time.Second); !got.Equal(want) {
		t.Errorf("look again at %v, want %v", got, want)
	}
}

// Another program attaches ENIs at the slots of NodeENIs and marks them sooner or later; pods come and go. No marked
// link is touched or offered, and no pod loses its device.
func TestForeignBesideAVPCCNI(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 11)) //nolint:gosec // to be repeated
		w := newWorld(1, 2, 3)
		since := map[int]time.Duration{}
		marked, held := map[int]bool{}, map[int]bool{}
		for n := 1; n <= 3; n++ {
			w.declare(string(rune('a'-1+n)), n, resource("intel.com/x"))
		}
		for range 60 {
			n := 1 + rng.IntN(3)
			switch rng.IntN(4) {
			case 0:
				marked[n] = !marked[n]
			case 1:
				isReady := func(d nodestate.CheckpointDevice) bool { return d.ENIID == eniID(n) && d.Phase == ready }
				if !held[n] && slices.ContainsFunc(w.Checkpoint.Devices, isReady) {
					w.hold(n, nodestate.ModeExclusive)
					held[n] = true
				}
			case 2:
				if held[n] {
					w.release(n)
					w.attachAgain(n)
					held[n] = false
				}
			}
			step := time.Duration(rng.IntN(20)) * time.Second
			w.Now = w.Now.Add(step)
			var marks []int
			w.Unmarked = map[int]time.Duration{}
			for n := 1; n <= 3; n++ {
				if since[n] += step; marked[n] || held[n] {
					since[n] = 0
				}
				if marked[n] {
					marks = append(marks, n)
				}
				w.Unmarked[w.links[n].Index] = since[n]
			}
			w.guard(marks...)
			r := w.sync()
			touched := map[device.PCIAddress]bool{}
			for _, l := range r.Idle {
				touched[l.Device.PCIAddress] = true
			}
			for _, d := range r.Devices {
				n := 0
				for e := 1; e <= 3; e++ {
					if d.ENIID == eniID(e) {
						n = e
					}
				}
				switch {
				case n == 0:
				case held[n] && d.Phase != ready:
					t.Fatalf("seed %d: a pod has ENI %d, which is %s (%s)", seed, n, d.Phase, d.Cause)
				case !held[n] && marked[n] && (d.Phase != draining || touched[d.PCIAddress]):
					t.Fatalf("seed %d: ENI %d is marked, and %s", seed, n, d.Phase)
				case !held[n] && !marked[n] && since[n] >= quietTime && d.Phase != ready:
					t.Fatalf("seed %d: ENI %d has been without marks for %v, and is %s", seed, n, since[n], d.Phase)
				}
			}
		}
	}
}
