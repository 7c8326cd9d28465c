package reconcile

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestEmptySysfsIsUnknown(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/fast")
	n.hold(1)
	n.must(os.Rename(n.path("sys/bus/pci/devices"), n.path("away")))
	n.mkdir("sys/bus/pci/devices")
	n.daemon.Sync(t.Context())
	if got := n.rows(); len(got) != 1 || got[0] != "a eth1 ready" {
		t.Errorf("rows %q, want the device as it was", got)
	}
	n.must(os.Remove(n.path("sys/bus/pci/devices")))
	n.must(os.Rename(n.path("away"), n.path("sys/bus/pci/devices")))
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
}

// For each edit, a pod's device stays in the inventory until DEL, and then nothing of the old state is left.
func TestEditedUnderAPod(t *testing.T) {
	const was = "dpdkResourceName: intel.com/fast"
	tests := []struct {
		name         string
		edit         func(n *testNode)
		held, after  []string
		heldProblems []string
		pools        pools
	}{
		{
			"another index", func(n *testNode) { n.undeclare("a"); n.declare("a", 2, was) },
			[]string{"a eth1 draining", "a eth2 ready"}, []string{"a eth2 ready"}, nil, pools{"intel.com/fast": {pci(2)}},
		},
		{
			"another resource", func(n *testNode) { n.declare("a", 1, "dpdkResourceName: intel.com/faster") },
			[]string{"a eth1 ready"}, []string{"a eth1 ready"}, nil, pools{"intel.com/faster": {pci(1)}},
		},
		{
			"no resource", func(n *testNode) { n.declare("a", 1) },
			[]string{"a eth1 ready"}, []string{"a eth1 ready"}, nil, nil,
		},
		{
			"another name", func(n *testNode) { n.undeclare("a"); n.declare("b", 1, was) },
			[]string{"b eth1 ready"}, []string{"b eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}},
		},
		{
			"DPDK and back", func(n *testNode) {
				n.declare("a", 1, was, "enableDPDK: true")
				n.settle()
				n.expect([]string{"a  draining"}, []string{"DriverNotBound"}, nil)
				if m := n.inventory().Problems[0].Message; !strings.Contains(m, "once that pod has ended") {
					t.Errorf("message %q would take the device from its pod", m)
				}
				n.declare("a", 1, was)
			},
			[]string{"a eth1 ready"}, []string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}},
		},
		{
			"DPDK, then removed", func(n *testNode) { n.declare("a", 1, was, "enableDPDK: true"); n.settle(); n.undeclare("a") },
			[]string{"a eth1 draining"}, nil, nil, nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, 1, 2)
			n.declare("a", 1, was)
			n.settle()
			rec := n.hold(1)
			tt.edit(n)
			n.settle()
			n.expect(tt.held, tt.heldProblems, tt.pools)
			n.start() // it is known to the next daemon too
			n.settleAfter(time.Minute)
			n.expect(tt.held, tt.heldProblems, tt.pools)
			n.must(rec.Remove())
			n.addLink(1, "eth1")
			n.settle()
			n.expect(tt.after, nil, tt.pools)
		})
	}
}
