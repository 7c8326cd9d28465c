package reconcile

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// replug makes the ENI another PCI function at the same address, with the same ENI id and MAC.
func (n *testNode) replug(e int) {
	n.Helper()
	was := n.instance(e)
	// A file system may give a freed inode number to another folder, which sysfs does not. An open one is not freed.
	folder, err := os.Open(n.path("sys/bus/pci/devices", pci(e).String()))
	n.must(err)
	defer folder.Close()
	n.unplug(e)
	n.plug(e, "ena")
	if n.instance(e) == was {
		n.Fatal("the function is the same one")
	}
}

// pod gives the device to a pod, with all fields of the record that the plugin writes.
func (n *testNode) pod(e int) *nodestate.Record {
	n.Helper()
	instance := n.instance(e)
	rec := n.hold(e)
	rec.Device.Instance = instance
	n.must(rec.Save())
	rec.Close()
	return rec
}

// An ENI was detached and attached again at its old PCI address between two looks. It does not drain and stays in the
// config; the next pod keeps it.
func TestReattachedWhereItWas(t *testing.T) {
	tests := map[string]func(n *testNode){
		"while the daemon is down": func(n *testNode) {
			n.replug(1)
			n.start()
			n.settle()
		},
		"between two looks": func(n *testNode) {
			n.replug(1)
			n.settle()
		},
		"while it has no interface": func(n *testNode) {
			delete(n.host.links, 1)
			n.settle()
			if !slices.Contains(n.reasons(), "NoInterface") {
				n.Fatalf("problems %q, want NoInterface", n.reasons())
			}
			n.replug(1)
			n.settle()
		},
		"and taken by a pod, while the daemon is down": func(n *testNode) {
			n.replug(1)
			n.pod(1)
			n.start()
			n.settle()
		},
		"and taken by a pod, between two looks": func(n *testNode) {
			n.replug(1)
			n.pod(1)
			n.settle()
		},
	}
	for name, story := range tests {
		t.Run(name, func(t *testing.T) {
			n := settledNode(t, "dpdkResourceName: intel.com/fast")
			n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
			restarts := len(n.restarts.wanted)
			story(n)
			n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
			n.logged()

			if _, inHost := n.host.links[1]; inHost {
				n.pod(1)
			}
			for range 3 {
				n.settle()
				n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
				n.now = n.now.Add(time.Hour)
			}
			n.start()
			n.settle()
			n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
			if got := len(n.restarts.wanted) - restarts; got != 0 {
				t.Errorf("the device plugin was restarted %d times", got)
			}
			if got := n.logged(); len(got) > 0 {
				t.Errorf("logged %q, want nothing", got)
			}
			c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
			n.must(err)
			if got, want := c.Devices[0].Instance, n.instance(1); got != want {
				t.Errorf("the checkpoint has function %d, want %d", got, want)
			}
		})
	}
}
