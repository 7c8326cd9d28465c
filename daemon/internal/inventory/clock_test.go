package inventory

import (
	"testing"
	"time"
)

// A grace that began later than the clock shows begins anew, and ends.
func TestClockSetBackDuringGrace(t *testing.T) {
	first := brief{"a", 1, pci(1), "eth1", "", ready}
	w := newWorld(1, 2)
	w.declare("a", 1, attached(node, 1, 2))
	w.sync()
	w.declare("a", 1, attached(node, 2))
	w.sync()
	w.Now = start.Add(-24 * time.Hour)
	other := brief{"a", 2, pci(2), "eth2", "", ready}
	expect(t, w.sync(), nil, first, other)
	w.Now = w.Now.Add(missingGrace - time.Second)
	expect(t, w.sync(), nil, first, other)
	w.Now = w.Now.Add(time.Second)
	lost := first
	lost.Phase = draining
	expect(t, w.sync(), nil, lost, other)
}
