package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// controlList is the controller's list.
type controlList struct{ snap inventory.Snapshot }

func (c *controlList) List() (inventory.Snapshot, error) { return c.snap, nil }

// set lists ENI 1 of NodeENI "a" as wanted or to be released.
func (c *controlList) set(released bool) {
	c.snap = inventory.Snapshot{Complete: true, Lookup: inventory.LookupEntries, Entries: []inventory.Entry{{
		Slot: "0000000000000001", NodeENI: "a", Released: released, Release: 3, Phase: "Attached",
		ENI: vpc.ENI{ID: eniID(1), MAC: mac(1), DeviceIndex: 1, SubnetID: subnet(1)},
	}}}
	if !released {
		o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
		o.Spec.DPDKResourceName = "intel.com/x"
		c.snap.Objects = []v1alpha1.NodeENI{o}
	}
}

// controlledNode has ENI 1 ready by the controller's list; IMDS does not list it.
func controlledNode(t *testing.T) (*testNode, *controlList) {
	t.Helper()
	n := newNode(t, 1)
	delete(n.imds.enis, 1)
	n.host.ours[1] = true
	n.kubelet = &fakeKubelet{}
	list := &controlList{}
	list.set(false)
	n.controlled(list)
	n.settle()
	if d := n.daemon.files.Inventory.Devices; len(d) != 1 || d[0].Phase != nodestate.PhaseReady {
		t.Fatalf("devices %+v, problems %+v; want one that is ready", d, n.daemon.files.Inventory.Problems)
	}
	return n, list
}

func (n *testNode) controlled(list *controlList) {
	n.Helper()
	n.must(n.startWith(func(o *Options) { o.NodeENIs = list }))
}

// released says whether the last View has released ENI 1; it never has while a row, or a record, has it.
func (n *testNode) released() bool {
	n.Helper()
	v := n.views[len(n.views)-1]
	if len(v.Released) == 0 {
		return false
	}
	all, _, err := n.records().List()
	n.must(err)
	if len(all) > 0 || slices.ContainsFunc(n.daemon.files.Inventory.Devices, func(d nodestate.Device) bool { return d.ENIID == eniID(1) }) {
		n.Fatalf("released with records %+v and rows %+v", all, n.daemon.files.Inventory.Devices)
	}
	return v.Released[0].ENIID == eniID(1) && v.Released[0].Slot == "0000000000000001" && v.Released[0].Release == 3
}

func (n *testNode) problems() string {
	var all []string
	for _, p := range n.daemon.files.Inventory.Problems {
		all = append(all, string(p.Reason))
	}
	return strings.Join(all, " ")
}

// TestReleasedAcrossRestarts: the daemon says that an ENI is released, though it is killed and begins anew after any number of Syncs.
func TestReleasedAcrossRestarts(t *testing.T) {
	for _, held := range []bool{false, true} {
		for kill := range 6 {
			t.Run(fmt.Sprintf("held=%t kill=%d", held, kill), func(t *testing.T) {
				n, list := controlledNode(t)
				if held {
					rec := n.hold(1)
					defer rec.Close()
				}
				n.sync()
				list.set(true)
				for range kill {
					n.syncAfter(time.Second)
					if held && n.released() {
						t.Fatal("released while a pod has it")
					}
				}
				n.controlled(list)
				n.settle()
				if held {
					if n.released() {
						t.Fatal("released while a pod has it")
					}
					return
				}
				if !n.released() {
					t.Fatalf("not released; rows %+v, problems %s", n.daemon.files.Inventory.Devices, n.problems())
				}
				n.unplug(1) // the last Detach
				n.settle()
				if !n.released() || n.problems() != "" {
					t.Errorf("after the Detach: released %t, problems %s", n.released(), n.problems())
				}
				list.snap.Entries = nil
				n.settle()
				if n.released() || n.problems() != "" || len(n.daemon.files.Inventory.Devices) > 0 {
					t.Errorf("at the end: released %t, problems %s", n.released(), n.problems())
				}
			})
		}
	}
}

// TestReleaseWaitsForAnAdd: an ADD has the device lock since before the device drained, and may be about to write its record.
func TestReleaseWaitsForAnAdd(t *testing.T) {
	for _, gets := range []bool{false, true} {
		n, list := controlledNode(t)
		unlock, err := n.records().LockDevice(t.Context(), pci(1))
		n.must(err)
		list.set(true)
		n.settle()
		if n.released() {
			t.Fatal("released beside an ADD")
		}
		var rec *nodestate.Record
		if gets {
			rec = n.hold(1)
		}
		unlock()
		n.settle()
		if n.released() == gets {
			t.Errorf("the ADD got it %t, released %t", gets, n.released())
		}
		if gets {
			n.must(rec.Remove())
			rec.Close()
			n.addLink(1, ifname(1))
			n.settle()
			if !n.released() {
				t.Error("not released after the pod's end")
			}
		}
	}
}

func TestReleaseWaitsForTheKubelet(t *testing.T) {
	n, list := controlledNode(t)
	list.set(true)
	for name, tt := range map[string]struct {
		devices inventory.Kubelet
		err     error
		problem string
	}{
		"it has just started": {inventory.Kubelet{Fresh: true}, nil, "ReleaseWaits"},
		"it lists no pod":     {inventory.Kubelet{}, inventory.ErrNoPods, "KubeletUnreadable"},
	} {
		n.kubelet.devices, n.kubelet.err = tt.devices, tt.err
		n.settle()
		if n.released() || !strings.Contains(n.problems(), tt.problem) {
			t.Errorf("%s: released %t, problems %s", name, n.released(), n.problems())
		}
	}
	n.kubelet.devices, n.kubelet.err = inventory.Kubelet{}, nil
	n.settle()
	if !n.released() || n.problems() != "" {
		t.Errorf("it can be asked: released %t, problems %s", n.released(), n.problems())
	}
	n.kubelet.devices = inventory.Kubelet{Fresh: true} // a later restart takes no word back
	asked := n.kubelet.asked
	n.settleAfter(time.Minute)
	if !n.released() || n.kubelet.asked != asked {
		t.Errorf("after a restart of the kubelet: released %t, asked %d times", n.released(), n.kubelet.asked-asked)
	}
	list.set(false)
	n.settle()
	if n.released() || n.daemon.files.Inventory.Devices[0].Phase != nodestate.PhasePending {
		t.Errorf("wanted again, and the controller cannot know that it is not released: released %t, rows %+v", n.released(), n.daemon.files.Inventory.Devices)
	}
	list.snap.Shown = n.views[len(n.views)-1].Number
	n.settle()
	if n.released() || n.daemon.files.Inventory.Devices[0].Phase != nodestate.PhaseReady {
		t.Errorf("wanted again: released %t, rows %+v", n.released(), n.daemon.files.Inventory.Devices)
	}
}

func TestControllerSilent(t *testing.T) {
	n, list := controlledNode(t)
	list.snap = inventory.Snapshot{Lookup: inventory.LookupEntries, Silent: "the list is not known"}
	n.sync()
	if n.problems() != "ControllerSilent" || len(n.daemon.files.Inventory.Devices) != 1 {
		t.Errorf("with a device: problems %s, rows %+v", n.problems(), n.daemon.files.Inventory.Devices)
	}
	n = newNode(t)
	n.controlled(list)
	for d, want := range map[time.Duration]string{59 * time.Second: "", time.Minute: "ControllerSilent"} {
		list.snap.SilentFor = d
		n.sync()
		if n.problems() != want {
			t.Errorf("without a device, for %v: problems %s", d, n.problems())
		}
	}
}
