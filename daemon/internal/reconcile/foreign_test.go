package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ruleOfOthers = "rule 1536 sends to table 2, which leads out of it"

func (n *testNode) guard() {
	n.start()
	n.daemon.NodeENIs = guarded{n.daemon.NodeENIs}
}

func (n *testNode) pass(d time.Duration) {
	n.Helper()
	p := pace{}
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(min(p.next(n.sync()), end.Sub(n.now)))
	}
	n.sync()
}

// Where others attach ENIs, the daemon takes no link that is in use or was seen only for a moment, and looks for marks
// in each Sync.
func TestForeignENI(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.guard()
	n.host.foreign = map[int]string{11: ruleOfOthers}
	n.settle()
	n.expect([]string{"a  pending"}, []string{"ForeignENI"}, nil)
	n.host.foreign, n.host.fail["foreign"] = nil, fmt.Errorf("dump interrupted")
	n.settle()
	n.expect([]string{"a  pending"}, []string{"RoutesUnreadable"}, nil)
	n.host.fail["foreign"] = nil
	n.sync()
	n.expect([]string{"a  pending"}, nil, nil)
	n.pass(time.Minute)
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/a": {pci(1)}})
	n.guard()
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/a": {pci(1)}})
}

// The daemon took the VPC CNI's ENI, which then gets marked: it is withdrawn, its link is left alone, and the row says
// why. A pod keeps it.
func TestForeignENILater(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/a", "mtu: 9001")
	n.declare("b", 2, "dpdkResourceName: intel.com/b")
	n.guard()
	n.pass(time.Minute)
	n.expect([]string{"a eth1 ready", "b eth2 ready"}, nil, pools{"intel.com/a": {pci(1)}, "intel.com/b": {pci(2)}})
	rec := n.hold(2)
	rec.Close()
	n.addLink(2, "eth2") // a delegate leaves it in the host
	n.host.ours[1] = false
	n.host.foreign = map[int]string{11: ruleOfOthers, 12: ruleOfOthers}
	l := n.host.links[1]
	l.MTU, l.Up = 1500, false // theirs to set
	n.host.links[1] = l
	n.sync()
	n.expect([]string{"a  pending", "a eth1 draining", "b eth2 ready"}, []string{"ForeignENI"}, pools{"intel.com/b": {pci(2)}})
	if got := n.inventory().Devices[1].Cause; !strings.Contains(got, ruleOfOthers) {
		t.Errorf("cause %q, want the mark in it", got)
	}
	n.pass(5 * time.Minute)
	n.expect([]string{"a  pending", "b eth2 ready"}, []string{"ForeignENI"}, pools{"intel.com/b": {pci(2)}})
	if diff := cmp.Diff(l, n.host.links[1]); diff != "" {
		t.Errorf("the link was changed (-was +is):\n%s", diff)
	}
	n.must(rec.Remove())
	n.host.ours[2] = false
	n.pass(time.Minute)
	n.expect([]string{"a  pending", "b  pending"}, []string{"ForeignENI", "ForeignENI"}, nil)
	n.host.foreign, n.host.ours[1] = nil, true
	n.host.ours[2] = true
	n.pass(time.Minute)
	n.expect([]string{"a eth1 ready", "b eth2 ready"}, nil, pools{"intel.com/a": {pci(1)}, "intel.com/b": {pci(2)}})
}
