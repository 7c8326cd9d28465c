package inventory

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

type step struct {
	name     string
	change   func(*world)
	rows     []brief
	problems []string
}

func deleting(w *world) {
	now := metav1.NewTime(start)
	w.objects["a"].DeletionTimestamp = &now
}

func undeclare(w *world) { delete(w.objects, "a") }

func served(yes bool) func(*world) { return func(w *world) { w.Withdrawn = yes } }

var (
	aReady    = brief{"a", 1, pci(1), "eth1", "intel.com/x", ready}
	aDraining = brief{"a", 1, pci(1), "eth1", "intel.com/x", draining}
	aBare     = brief{"a", 1, "", "", "intel.com/x", pending}
)

var overTime = map[string][]step{
	"NodeENI removed": {
		{"removed", undeclare, []brief{aDraining}, nil},
		{"the device plugin still offers it", served(false), []brief{aDraining}, nil},
		{"no more", served(true), nil, nil},
	},
	"IMDS no longer lists what a pod has": {
		{"held", func(w *world) { w.hold(1, nodestate.ModeExclusive); delete(w.enis, 1) }, []brief{aReady}, nil},
	},
	"NodeENI removed, with a kubelet": {
		{"a pod has it", func(w *world) { w.kubelet(nil, 1) }, []brief{aReady}, nil},
		{"removed", func(w *world) { undeclare(w); w.kubelet([]int{1}) }, []brief{aDraining}, nil},
		{"the kubelet still offers it", func(*world) {}, []brief{aDraining}, nil},
		{"not any more, but a pod is about to be set up", func(w *world) { w.kubelet(nil, 1) }, []brief{aDraining}, nil},
		{"the kubelet cannot be asked", func(w *world) { w.Kubelet = &Fact[Kubelet]{} }, []brief{aDraining}, nil},
		{"only the device plugin has not been seen to serve the config", func(w *world) { w.kubelet(nil); w.Withdrawn = false }, []brief{aDraining}, nil},
		{"all done", served(true), nil, nil},
	},
	"no longer advertised, then removed, while the device plugin serves the config before": {
		{"edited", func(w *world) { w.declare("a", 1); w.Withdrawn = false }, []brief{{"a", 1, pci(1), "eth1", "", ready}}, nil},
		{"removed", undeclare, []brief{{"a", 1, pci(1), "eth1", "", draining}}, nil},
		{"still served", func(*world) {}, []brief{{"a", 1, pci(1), "eth1", "", draining}}, nil},
		{"no more", served(true), nil, nil},
	},
	"mismatch, then removed, while the device plugin serves the config before": {
		{"edited", func(w *world) {
			w.declare("a", 1, resource("intel.com/x"), statedPCI(pci(9).String()))
			w.Withdrawn = false
		},
			[]brief{{"a", 1, pci(1), "eth1", "intel.com/x", pending}}, []string{"PCIAddressMismatch"}},
		{"removed", undeclare, []brief{aDraining}, nil},
		{"no more", served(true), nil, nil},
	},
	"removed, with a kubelet that cannot be asked": {
		{"another one that was never advertised", func(w *world) {
			w.attach(2)
			w.setUp(2)
			w.declare("b", 2)
			w.Kubelet = &Fact[Kubelet]{}
		}, []brief{aReady, {"b", 2, pci(2), "eth2", "", ready}}, nil},
		{"both removed", func(w *world) { undeclare(w); delete(w.objects, "b") }, []brief{aDraining, {"b", 2, pci(2), "eth2", "", draining}}, nil},
		{"only the advertised one waits", func(*world) {}, []brief{aDraining}, nil},
	},
	"the status is the truth, and loses the attachment": {
		{"attached", func(w *world) {
			w.Lookup = LookupNone
			w.declare("a", 1, resource("intel.com/x"), attached(node, 1))
		}, []brief{aReady}, nil},
		{"stale status", func(w *world) { w.declare("a", 1, resource("intel.com/x")) }, []brief{aReady}, []string{"NotAttached"}},
		{"written again", func(w *world) { w.declare("a", 1, resource("intel.com/x"), attached(node, 1)) }, []brief{aReady}, nil},
		{"lost", func(w *world) { w.declare("a", 1, resource("intel.com/x")) }, []brief{aReady}, []string{"NotAttached"}},
		{"for a minute", func(w *world) { w.Now = w.Now.Add(missingGrace) }, []brief{aDraining}, []string{"NotAttached"}},
		{"gone", func(*world) {}, nil, []string{"NotAttached"}},
	},
	"the status is the truth: an ENI that fits by index is not taken": {
		{"declared", func(w *world) { w.Lookup = LookupNone; w.attach(2); w.declare("b", 2) }, []brief{aReady}, []string{"NotAttached", "NotAttached"}},
	},
	"others attach ENIs too": {
		{"somebody uses the link", func(w *world) {
			w.Lookup = LookupGuarded
			w.attach(2)
			w.setUp(2)
			w.Foreign = Known(map[int]string{4: "rule 1536"})
			w.declare("b", 2)
		}, []brief{aReady, {"b", -1, "", "", "", pending}}, []string{"ForeignENI"}},
		{"routes cannot be read", func(w *world) { w.Foreign = Fact[map[int]string]{} }, []brief{aReady, {"b", -1, "", "", "", pending}}, nil},
		{"nobody does", func(w *world) { w.Foreign = Known(map[int]string{}) }, []brief{aReady, {"b", -1, "", "", "", pending}}, nil},
		{"nor did for a while", func(w *world) { w.Unmarked = map[int]time.Duration{4: quietTime} }, []brief{aReady, {"b", 2, pci(2), "eth2", "", ready}}, nil},
	},
	"NodeENI being deleted": {
		{"timestamp", deleting, []brief{aDraining}, nil},
		{"done", func(*world) {}, nil, nil},
	},
	"removed while a pod has the device": {
		{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, []brief{aReady}, nil},
		{"removed", undeclare, []brief{aDraining}, nil},
		{"still there", func(*world) {}, []brief{aDraining}, nil},
		{"records unreadable", func(w *world) { w.unknown.records = true }, []brief{aDraining}, nil},
		{"readable", func(w *world) { w.unknown.records = false }, []brief{aDraining}, nil},
		{"pod gone", func(w *world) { w.release(1) }, nil, nil},
	},
	"removed and declared again": {
		{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, []brief{aReady}, nil},
		{"removed", undeclare, []brief{aDraining}, nil},
		{"back", func(w *world) { w.declare("a", 1, resource("intel.com/x")) }, []brief{aReady}, nil},
	},
	"removed while another manifest cannot be read": {
		{"incomplete", func(w *world) { w.Complete = false; undeclare(w) }, []brief{aReady}, nil},
		{"complete", func(w *world) { w.Complete = true }, []brief{aDraining}, nil},
		{"incomplete again", func(w *world) { w.Complete = false }, []brief{aDraining}, nil},
		{"complete again", func(w *world) { w.Complete = true }, nil, nil},
	},
	"renamed NodeENI keeps the device": {
		{"renamed", func(w *world) { undeclare(w); w.declare("z", 1, resource("intel.com/x")) },
			[]brief{{"z", 1, pci(1), "eth1", "intel.com/x", ready}}, nil},
	},
	"moved to another device index": {
		{"edited", func(w *world) { w.attach(2); w.declare("a", 2, resource("intel.com/x")) },
			[]brief{aDraining, {"a", 2, pci(2), "eth2", "intel.com/x", ready}}, nil},
		{"done", func(*world) {}, []brief{{"a", 2, pci(2), "eth2", "intel.com/x", ready}}, nil},
	},
	"moved to another device index while IMDS is away": {
		{"edited", func(w *world) { w.unknown.enis = true; w.declare("a", 2, resource("intel.com/x")) },
			[]brief{aDraining, {"a", -1, "", "", "intel.com/x", pending}}, nil},
	},
	"another resource name": {
		{"edited", func(w *world) { w.declare("a", 1, resource("intel.com/y")) }, []brief{{"a", 1, pci(1), "eth1", "intel.com/y", ready}}, nil},
	},
	"no longer advertised": {
		{"edited", func(w *world) { w.declare("a", 1) }, []brief{{"a", 1, pci(1), "eth1", "", ready}}, nil},
	},
	"DPDK switched on, then bound by somebody else, then off again": {
		{"on", func(w *world) { w.declare("a", 1, dpdk, resource("intel.com/x")) }, []brief{{"a", 1, pci(1), "", "intel.com/x", draining}}, nil},
		{"bound", func(w *world) { w.bind(1, "vfio-pci") }, []brief{{"a", 1, pci(1), "", "intel.com/x", ready}}, nil},
		{"off", func(w *world) { w.declare("a", 1, resource("intel.com/x")) },
			[]brief{{"a", 1, pci(1), "", "intel.com/x", pending}}, []string{"DriverMismatch"}},
		{"unbound", func(w *world) { w.plug(1) }, []brief{aReady}, nil},
	},
	"another subnet that names no ENI": {
		{"edited", func(w *world) {
			w.declare("a", 1, resource("intel.com/x"), func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = subnet(9).String() })
		}, []brief{aDraining, {"a", -1, "", "", "intel.com/x", pending}}, []string{"ENINotAttached"}},
	},
	"edited into something that cannot be understood": {
		{"edited", func(w *world) {
			w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID, o.Spec.SubnetName = "", "apps" })
		}, []brief{aReady}, []string{"SubnetNameUnknown"}},
	},
	"ENI detached: sysfs first, IMDS late": {
		{"unplugged", func(w *world) { w.unplug(1) }, []brief{aDraining}, []string{"DeviceGone"}},
		{"IMDS still lists it", func(*world) {}, []brief{aBare}, []string{"DeviceGone"}},
		{"and still", func(*world) {}, []brief{aBare}, []string{"DeviceNotSeen"}},
		{"no more", func(w *world) { delete(w.enis, 1) },
			[]brief{{"a", -1, "", "", "intel.com/x", pending}}, []string{"ENINotAttached"}},
	},
	"another device in its place while a pod has it": {
		{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, []brief{aReady}, nil},
		{"replaced, and nothing seen of it yet", func(w *world) { w.plug(1); delete(w.links, 1) }, []brief{aDraining}, []string{"DeviceGone"}},
		{"pod gone", func(w *world) { w.records = nil }, []brief{aBare}, []string{"DeviceGone"}},
	},
	"another ENI in its place while a pod has it": {
		{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, []brief{aReady}, nil},
		{"replaced", func(w *world) {
			undeclare(w)
			delete(w.enis, 1)
			w.attach(1)
			e, l := w.enis[1], w.links[1]
			e.ID, e.MAC, l.MAC = eniID(9), mac(9), mac(9)
			w.enis[1], w.links[1] = e, l
			w.declare("b", 1, resource("intel.com/x"))
		}, []brief{{"a", 1, "", "", "intel.com/x", draining}, {"b", 9, pci(1), "eth1", "intel.com/x", ready}}, nil},
	},
	"its MAC was changed": {
		{"changed", func(w *world) { l := w.links[1]; l.MAC = mac(9); w.links[1] = l },
			[]brief{{"a", 1, pci(1), "eth1", "intel.com/x", pending}}, []string{"MACChanged"}},
		{"given back", func(w *world) { l := w.links[1]; l.MAC = mac(1); w.links[1] = l }, []brief{aReady}, nil},
	},
	"ENI detached while a pod has it": {
		{"pod", func(w *world) { w.hold(1, nodestate.ModeExclusive) }, []brief{aReady}, nil},
		{"unplugged", func(w *world) { w.unplug(1) }, []brief{aDraining}, []string{"DeviceGone"}},
		{"held on", func(*world) {}, []brief{aDraining}, []string{"DeviceGone"}},
		{"pod gone", func(w *world) { w.records = nil }, []brief{aBare}, []string{"DeviceGone"}},
		{"plugged in again", func(w *world) { w.plug(1) }, []brief{aReady}, nil},
	},
	"IMDS loses sight of it": {
		{"gone from IMDS", func(w *world) { delete(w.enis, 1) }, []brief{aReady}, nil},
		{"removed", undeclare, []brief{aDraining}, nil},
	},
	"IMDS forgets the index": {
		{"0", func(w *world) { w.setIndex(1, 0) }, []brief{aReady}, nil},
	},
	"everything becomes unreadable": {
		{"IMDS", func(w *world) { w.unknown.enis = true }, []brief{aReady}, nil},
		{"manifests", func(w *world) { w.Complete = false; undeclare(w) }, []brief{aReady}, nil},
		{"sysfs", func(w *world) { w.unknown.functions = true; w.unplug(1) }, []brief{aReady}, nil},
		{"netlink", func(w *world) { w.unknown.links = true }, []brief{aReady}, nil},
		{"records", func(w *world) { w.unknown.records = true }, []brief{aReady}, nil},
	},
	"link taken down by somebody: brought up again, advertised all the time": {
		{"down", func(w *world) { l := w.links[1]; l.Up = false; w.links[1] = l }, []brief{aReady}, nil},
	},
	"link in a netns that is not a pod's": {
		{"away", func(w *world) { delete(w.links, 1) }, []brief{aReady}, []string{"NoInterface"}},
		{"back", func(w *world) { w.plug(1) }, []brief{aReady}, nil},
	},
	"link renamed": {
		{"renamed", func(w *world) { l := w.links[1]; l.Name = "data1"; w.links[1] = l },
			[]brief{{"a", 1, pci(1), "data1", "intel.com/x", ready}}, nil},
	},
	"plugged into another slot": {
		{"moved", func(w *world) {
			fn := w.functions[pci(1)]
			delete(w.functions, pci(1))
			fn.Address = pci(9)
			w.functions[pci(9)] = fn
			w.links[1] = link.Link{Index: 3, Name: "eth1", MAC: mac(1), Parent: pci(9)}
		}, []brief{{"a", 1, pci(9), "eth1", "intel.com/x", ready}}, nil},
	},
	"reboot": {
		{"no link yet", func(w *world) { w.reboot(); w.unplug(1); w.unknown.enis = true }, []brief{aBare}, []string{"DeviceNotSeen"}},
		{"IMDS back, function in another slot", func(w *world) {
			w.unknown.enis = false
			w.plug(1)
			w.functions[pci(9)] = sysfs.PCIFunction{Class: 0x020000, Driver: "ena", Interfaces: []string{"eth1"}}
			delete(w.functions, pci(1))
			w.links[1] = link.Link{Index: 3, Name: "eth1", MAC: mac(1)}
		}, []brief{{"a", 1, pci(9), "eth1", "intel.com/x", ready}}, nil},
	},
	"removed while the node was down": {
		{"rebooted", func(w *world) { w.reboot(); undeclare(w) }, nil, nil},
	},
	"reboot with unreadable manifests": {
		{"rebooted", func(w *world) { w.reboot(); w.plug(1); w.Complete = false; undeclare(w) }, []brief{aReady}, nil},
	},
}

func TestOverTime(t *testing.T) {
	for name, steps := range overTime {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1)
			w.declare("a", 1, resource("intel.com/x"))
			expect(t, w.sync(), nil, aReady)
			for _, s := range steps {
				s.change(w)
				t.Log(s.name)
				expect(t, w.sync(), s.problems, s.rows...)
			}
		})
	}
}

// An entry that vanishes from the status counts after 60 s while its device is plugged in, and else at once.
func TestMissingAttachment(t *testing.T) {
	two := []brief{{"a", 1, pci(1), "eth1", "", ready}, {"a", 2, pci(2), "eth2", "", ready}}
	gone := []brief{{"a", 1, pci(1), "eth1", "", draining}, {"a", 2, pci(2), "eth2", "", ready}}
	at := func(d time.Duration, f func(*world)) func(*world) {
		return func(w *world) { w.Now = start.Add(d); f(w) }
	}
	nothing := func(*world) {}
	lose := func(w *world) { w.declare("a", 1, attached(node, 2)) }
	tests := map[string][]step{
		"for good": {
			{"lost", at(0, lose), two, nil},
			{"59 s", at(59*time.Second, nothing), two, nil},
			{"60 s", at(60*time.Second, nothing), gone, nil},
			{"out", at(61*time.Second, nothing), two[1:], nil},
		},
		"for a while": {
			{"lost", at(0, lose), two, nil},
			{"back", at(50*time.Second, func(w *world) { w.declare("a", 1, attached(node, 1, 2)) }), two, nil},
			{"lost again", at(60*time.Second, lose), two, nil},
			{"counted anew", at(119*time.Second, nothing), two, nil},
			{"over", at(120*time.Second, nothing), gone, nil},
		},
		"and unplugged": {
			{"lost", at(0, func(w *world) { lose(w); w.unplug(1); delete(w.enis, 1) }), gone, nil},
		},
		"for this node altogether": {
			{"lost", at(0, func(w *world) { w.declare("a", 1, attached("node-b", 1)) }), two, []string{"NotAttached"}},
			{"over", at(60*time.Second, nothing), []brief{gone[0], {"a", 2, pci(2), "eth2", "", draining}}, []string{"NotAttached"}},
		},
		"and the NodeENI deleted: no grace": {
			{"deleted", at(0, deleting), []brief{gone[0], {"a", 2, pci(2), "eth2", "", draining}}, nil},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1, 2)
			w.declare("a", 1, attached(node, 1, 2))
			w.sync()
			for _, s := range steps {
				s.change(w)
				t.Log(s.name)
				expect(t, w.sync(), s.problems, s.rows...)
			}
		})
	}
}

// A recorded address does not become a fact by having been believed once.
func TestHintIsWeighedAnew(t *testing.T) {
	w := newWorld(1, 2)
	w.declare("a", 1, dpdk, statedPCI(pci(2).String()))
	w.bind(1, "vfio-pci")
	w.bind(2, "vfio-pci")
	expect(t, w.join(), nil, brief{"a", 1, pci(2), "", v1alpha1.DefaultResourceName, ready})
	w.unknown.enis = true
	expect(t, w.join(), nil, brief{"a", 1, pci(2), "", v1alpha1.DefaultResourceName, ready})
	w.Complete, w.objects = false, nil
	expect(t, w.join(), nil, brief{"a", 1, pci(2), "", v1alpha1.DefaultResourceName, ready})
	w.Complete, w.objects, w.unknown.enis = true, map[string]*v1alpha1.NodeENI{}, false
	w.declare("a", 1, dpdk, statedPCI(pci(1).String()))
	expect(t, w.join(), nil, brief{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, ready})
}

// Pending rows go without draining, unless a pod has the device after all.
func TestPendingIsNotDrained(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	expect(t, w.join(), nil, brief{"a", 1, pci(1), "eth1", "", pending})
	undeclare(w)
	expect(t, w.join(), nil)
}

func TestDrainingShowsItsDriver(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1, resource("intel.com/x"))
	w.sync()
	undeclare(w)
	w.Withdrawn = false
	w.setFunction(1, func(f *sysfs.PCIFunction) { f.Driver = "ixgbevf" })
	if d := w.join().Devices[0]; d.Phase != draining || d.Driver != "ixgbevf" {
		t.Errorf("row %+v", d)
	}
}

func TestIdleLinkIsSettled(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.MTU = 9001 })
	for range 2 {
		for _, l := range w.join().Idle {
			if want := w.links[1].MTU == 9001; l.Settled() != want {
				t.Errorf("settled is %v with %+v", l.Settled(), l.Link)
			}
		}
		w.setUp(1)
		w.setMTU(1, 9001)
	}
}
