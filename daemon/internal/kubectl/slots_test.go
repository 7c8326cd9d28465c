package kubectl

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// TestSlots: a slot is released only where slot, ENI and number of the wish agree, and while it is wanted so.
func TestSlots(t *testing.T) {
	s := v1alpha1.ENINodeState{}
	for _, slot := range []string{"a", "b", "c", "d"} {
		s.Spec.Attachments = append(s.Spec.Attachments, v1alpha1.AttachmentEntry{
			Slot: slot, NodeENI: v1alpha1.NodeENIReference{Name: "n"}, ENIID: "eni-" + slot, Wanted: v1alpha1.WantedReleased, Phase: "Draining", Release: 2,
		})
	}
	s.Spec.Attachments[3].Wanted = v1alpha1.WantedAttached
	s.Status.Released = []v1alpha1.ReleasedENI{
		{Slot: "a", ENIID: "eni-a", Release: 2}, {Slot: "b", ENIID: "eni-older", Release: 2}, {Slot: "c", ENIID: "eni-c", Release: 1},
		{Slot: "d", ENIID: "eni-d", Release: 2},
	}
	want := []show.Slot{
		{Slot: "a", NodeENI: "n", ENIID: "eni-a", Wanted: "Released", Phase: "Draining", Released: true},
		{Slot: "b", NodeENI: "n", ENIID: "eni-b", Wanted: "Released", Phase: "Draining"},
		{Slot: "c", NodeENI: "n", ENIID: "eni-c", Wanted: "Released", Phase: "Draining"},
		{Slot: "d", NodeENI: "n", ENIID: "eni-d", Wanted: "Attached", Phase: "Draining"},
	}
	if diff := cmp.Diff(want, view(&s).Slots); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
}
