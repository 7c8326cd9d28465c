package reconcile

import (
	"testing"
	"time"
)

// A NodeENI that cannot be understood keeps its own device as it is and delays no other's removal, even at the daemon's
// start.
func TestUnreadNodeENI(t *testing.T) {
	for name, line := range map[string]string{
		"beyond every float's int": "mtu: 1.0e+300",
		"beyond int64":             "mtu: 18446744073709551616",
		"another type":             "enableDPDK: [maybe]",
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, 2, 3)
			n.declare("a", 1, "dpdkResourceName: intel.com/fast")
			n.declare("b", 2, "dpdkResourceName: intel.com/fast")
			n.declare("c", 3)
			n.settle()
			n.declare("a", 1, "dpdkResourceName: intel.com/fast", line)
			n.declare("z", 3, line) // of which nothing was ever known
			n.start()
			n.undeclare("b")
			n.settleAfter(time.Hour)
			n.expect([]string{"a eth1 ready", "c eth3 ready"}, []string{"NodeENIUnreadable", "NodeENIUnreadable"}, pools{"intel.com/fast": {pci(1)}})
			n.undeclare("a")
			n.settle()
			n.expect([]string{"c eth3 ready"}, []string{"NodeENIUnreadable"}, nil)
		})
	}
}
