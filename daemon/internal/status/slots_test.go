package status

import (
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestSlots: the status shows that the controller names the ENIs, and the phase of each slot.
func TestSlots(t *testing.T) {
	s := Status{Inventory: nodestate.Inventory{NodeName: "node-a"}, Live: &Live{Version: "v1"}}
	text := func() string {
		var b strings.Builder
		must(t, s.Node().Print(&b, false))
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(strings.TrimSpace(line))); n > show.Columns {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		return b.String()
	}
	if got := text(); strings.Contains(got, "controller") {
		t.Errorf("without the controller:\n%s", got)
	}
	s.Live.ByController = true
	if got := text(); !strings.Contains(got, "from the controller, slots: 0") || strings.Contains(got, "Slots of") {
		t.Errorf("without a slot:\n%s", got)
	}
	s.Live.Slots = []view.Slot{
		{Slot: "00000000000000a1", NodeENI: "dataplane-a", ENIID: "eni-00000000000000001", Wanted: "Released", Phase: "Draining", Released: true},
		{Slot: "00000000000000a2", NodeENI: "dataplane-b", Wanted: "Attached", Phase: "Blocked", Reason: "SubnetFull", Message: "no free address"},
	}
	got := text()
	for _, want := range []string{"from the controller, slots: 2", "Slots of the controller:", "00000000000000a1", "Draining", "yes", "Blocked", "SubnetFull"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}
