package kubectl

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// TestSlots: a slot is released only where slot and ENI both agree.
func TestSlots(t *testing.T) {
	s := v1alpha1.ENINodeState{}
	for _, slot := range []string{"a", "b"} {
		s.Spec.Attachments = append(s.Spec.Attachments, v1alpha1.AttachmentEntry{
			Slot: slot, NodeENI: v1alpha1.NodeENIReference{Name: "n"}, ENIID: "eni-" + slot, Wanted: v1alpha1.WantedReleased, Phase: "Draining",
		})
	}
	s.Status.Released = []v1alpha1.ReleasedENI{{Slot: "a", ENIID: "eni-a"}, {Slot: "b", ENIID: "eni-older"}}
	want := []show.Slot{
		{Slot: "a", NodeENI: "n", ENIID: "eni-a", Wanted: "Released", Phase: "Draining", Released: true},
		{Slot: "b", NodeENI: "n", ENIID: "eni-b", Wanted: "Released", Phase: "Draining"},
	}
	if diff := cmp.Diff(want, view(&s).Slots); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
}
