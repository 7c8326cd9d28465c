package reconcile

import (
	"errors"
	"testing"
	"time"
)

// The daemon remembers over its own restarts which config is served.
func TestRestartIsNotRepeated(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	took := n.settle()
	if len(n.restarts.wanted) != 1 || took < restartQuiet || took > 2*restartQuiet {
		t.Fatalf("restarted %d times in %v, want once after %v", len(n.restarts.wanted), took, restartQuiet)
	}
	n.start()
	n.settleAfter(time.Hour)
	n.declare("b", 2)
	n.settle()
	n.restarted(1, "restarted %d times, want no other for a device that is not advertised")
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.sync()
	n.start() // before the restart that is due
	n.settle()
	n.restarted(2, "restarted %d times, want a second for the second device")
}

func TestFailedRestartIsLoggedOnce(t *testing.T) {
	n := newNode(t, 1)
	n.restarts.err = errors.New("API server is away")
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	for range 20 {
		n.sync()
		n.now = n.now.Add(time.Minute)
	}
	n.restarts.err = nil
	for range 20 {
		n.sync()
		n.now = n.now.Add(time.Minute)
	}
	count := map[string]int{}
	for _, m := range n.logged() {
		count[m]++
	}
	if count["device plugin restart failed, trying again"] != 1 || count["device plugin serves its config"] != 1 {
		t.Errorf("logged %v, want one failure and its end", count)
	}
}
