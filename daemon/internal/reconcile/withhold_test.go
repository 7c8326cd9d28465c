package reconcile

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestWithheldBeforeTheDisk: the kubelet learns that a device is not for new pods while nothing can be written. It gets
// no new device then.
func TestWithheldBeforeTheDisk(t *testing.T) {
	for name, change := range map[string]func(*testNode){
		"undeclared": func(n *testNode) { n.undeclare("a") },
		"renamed":    func(n *testNode) { n.declare("a", 1, "dpdkResourceName: intel.com/another") },
	} {
		t.Run(name, func(t *testing.T) {
			n, f := offerNode(t, wishes(nodestate.OfferDevicePlugin))
			writable := n.unwritable()
			change(n)
			n.declare("b", 2, "dpdkResourceName: "+sriovNet.String())
			n.daemon.Sync(n.Context())
			if len(f.healthy()) > 0 || len(f.devices) != 1 || f.devices[0].Unfit == "" {
				t.Errorf("the kubelet is offered %+v", f.devices)
			}
			sets := f.sets
			n.daemon.Sync(n.Context())
			if f.sets != sets {
				t.Error("the kubelet is told again")
			}
			writable()
			n.settleMode("Offered")
			if got := len(f.healthy()); name == "undeclared" && got != 1 || name == "renamed" && got != 2 {
				t.Errorf("%d devices are offered after all: %+v", got, f.devices)
			}
		})
	}
}
