package inventory

import (
	"slices"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// The cause names only observed facts, and stays the same while nothing can be read.
func TestCauseOfDraining(t *testing.T) {
	tests := map[string]struct {
		change func(*world)
		want   string
	}{
		"removed":         {undeclare, "there is no NodeENI a"},
		"being deleted":   {deleting, "NodeENI a is being deleted"},
		"selects another": {func(w *world) { undeclare(w); w.Elsewhere = func(name string) bool { return name == "a" } }, "NodeENI a does not select this node"},
		"attachment lost": {func(w *world) {
			w.declare("a", 1, resource("intel.com/x"), attached(node, 1))
			w.sync()
			w.declare("a", 1, resource("intel.com/x"), attached("node-b", 1))
			w.sync()
			w.Now = w.Now.Add(missingGrace)
		}, "status.attachments of NodeENI a does not list the ENI for this node"},
		"another slot": {func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.DeviceIndex = 9 }) },
			"the ENI is not at a device index and subnet that NodeENI a names"},
		"unplugged": {func(w *world) { w.unplug(1) }, "no PCI function is at " + pci(1).String() + ", where the device was"},
		"replaced by what has no link": {func(w *world) { w.plug(1); delete(w.links, 1) },
			"another PCI function is at " + pci(1).String() + ", where the device was, and no link of this host has its MAC"},
		"another driver": {func(w *world) { w.declare("a", 1, resource("intel.com/x"), dpdk) }, "it is bound to ena, and is to be bound to vfio-pci"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1)
			w.setUp(1)
			w.Taken = Known(w.taken)
			w.declare("a", 1, resource("intel.com/x"))
			if r := w.sync(); r.Devices[0].Phase != ready || r.Devices[0].Cause != "" {
				t.Fatalf("begins with %+v", r.Devices)
			}
			w.Withdrawn = false // so that it stays
			tt.change(w)
			check := func(when string) {
				t.Helper()
				r := w.sync()
				i := slices.IndexFunc(r.Devices, func(d nodestate.Device) bool { return d.ENIID == eniID(1) })
				if i < 0 || r.Devices[i].Phase != draining || r.Devices[i].Cause != tt.want {
					t.Errorf("%s: %+v, want it to drain because %q", when, r.Devices, tt.want)
				}
			}
			check("at once")
			check("then")
			w.unknown.functions, w.unknown.links = true, true
			check("without sysfs")
			w.Complete, w.NodeENIs, w.objects = false, nil, nil
			w.unknown.functions, w.unknown.links = false, false
			check("without NodeENIs")
		})
	}
}

// The new function's pod has a record, which places the ENI although the earlier row's function is gone.
func TestReattachedBehindARow(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1, resource("intel.com/x"))
	w.setUp(1)
	w.sync()
	w.plug(1)
	w.hold(1, nodestate.ModeExclusive)
	expect(t, w.sync(), nil, aReady)
	if got, want := w.Checkpoint.Devices[0].Instance, w.functions[pci(1)].Instance; got != want {
		t.Errorf("the row is of function %d, want %d", got, want)
	}
	w.release(1)
	delete(w.links, 1)
	expect(t, w.sync(), []string{"NoInterface"}, aReady)
}

func TestReattachedIsSeenAnew(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	w.setUp(1)
	w.sync()
	w.Checkpoint.Devices[0].Ethtool = nodestate.Settings{"rings": "1"}
	if r := w.sync(); r.Devices[0].Ethtool == nil {
		t.Fatal("the settings are forgotten")
	}
	w.plug(1)
	r := w.join()
	if d := r.Devices[0]; d.Ethtool != nil || d.Phase != pending || len(r.Idle) != 1 {
		t.Errorf("%+v, want nothing of the function before, and a link to bring up", r.Devices)
	}
}
