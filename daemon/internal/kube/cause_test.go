package kube

import (
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestEventsNameTheCauseThatWasSeen: the Events of a draining device have its row's
// cause, and make up none.
func TestEventsNameTheCauseThatWasSeen(t *testing.T) {
	for _, cause := range []string{"no PCI function is at 0000:00:06.0, where the device was", "it is bound to ena, and is to be bound to vfio-pci", ""} {
		told := tellFrom(v1alpha1.ENINodeStateStatus{})
		told.tell(reportNode, readyView())
		v := readyView()
		v.Inventory.Devices[0].Phase, v.Inventory.Devices[0].Cause = nodestate.PhaseDraining, cause
		v.Holders = []view.Holder{{PCIAddress: "0000:00:06.0", Pod: "red/p", PodUID: "u-p"}}
		notes := told.tell(reportNode, v)
		if len(notes) != 2 {
			t.Fatalf("%d Events, want one of the NodeENI and one of the pod", len(notes))
		}
		for _, n := range notes {
			if !strings.Contains(n.message, cause) || strings.Contains(n.message, "remove") || strings.Contains(n.message, "()") {
				t.Errorf("%s: %q, want the cause %q and no other", n.about.Kind, n.message, cause)
			}
		}
	}
}

// TestElsewhere: a NodeENI that is there and does not select this node is told from
// one that is not there.
func TestElsewhere(t *testing.T) {
	s := &Source{declared: map[string]*declaration{}, node: nodeFacts{ref: NodeRef{Name: "node-a"}, labels: map[string]string{"a": "1"}}}
	for name, selector := range map[string]map[string]string{"here": {"a": "1"}, "there": {"a": "2"}} {
		d := &declaration{known: true}
		d.object.Spec.NodeSelector = selector
		s.declared[name] = d
	}
	for name, want := range map[string]bool{"here": false, "there": true, "nowhere": false} {
		if s.elsewhere(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
