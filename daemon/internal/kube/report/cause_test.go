package report

import (
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestEventsNameTheCauseThatWasSeen: the Events of a draining device give its row's cause, and invent none.
func TestEventsNameTheCauseThatWasSeen(t *testing.T) {
	for _, cause := range []string{"no PCI function is at 0000:00:06.0, where the device was", "it is bound to ena, and is to be bound to vfio-pci", ""} {
		sent := historyFrom(v1alpha1.ENINodeStateStatus{})
		sent.events(reportNode, readyView())
		v := readyView()
		v.Inventory.Devices[0].Phase, v.Inventory.Devices[0].Cause = nodestate.PhaseDraining, cause
		v.Holders = []view.Holder{{PCIAddress: "0000:00:06.0", Pod: "red/p", PodUID: "u-p"}}
		events := sent.events(reportNode, v)
		if len(events) != 2 {
			t.Fatalf("%d Events, want one of the NodeENI and one of the pod", len(events))
		}
		for _, n := range events {
			if !strings.Contains(n.message, cause) || strings.Contains(n.message, "remove") || strings.Contains(n.message, "()") {
				t.Errorf("%s: %q, want the cause %q and no other", n.about.Kind, n.message, cause)
			}
		}
	}
}
