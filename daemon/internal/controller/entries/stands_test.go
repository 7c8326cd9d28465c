package entries

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// TestStandsStill: the metric counts the slots that somebody must look at, whatever their phase.
func TestStandsStill(t *testing.T) {
	for _, tc := range []struct {
		phase  lifecycle.Phase
		reason string
		want   bool
	}{
		{lifecycle.Blocked, lifecycle.SubnetFull, true},
		{lifecycle.Wanted, lifecycle.Refused, true},
		{lifecycle.Attaching, lifecycle.TerminationFlag, true},
		{lifecycle.Draining, lifecycle.Forbidden, true},
		{lifecycle.Detaching, lifecycle.DetachStuck, true},
		{lifecycle.Wanted, lifecycle.InstanceNotRunning, true},
		{lifecycle.Attached, "", false},
		{lifecycle.Creating, lifecycle.Throttled, false},
		{lifecycle.Draining, lifecycle.WaitingForNode, false},
		{lifecycle.Draining, lifecycle.DeviceInUse, false},
		{lifecycle.Draining, lifecycle.DaemonTooOld, false},
		{lifecycle.Created, lifecycle.IndexTaken, false},
		{lifecycle.Blocked, lifecycle.IndexTaken, true},
	} {
		e := v1alpha1.AttachmentEntry{Phase: string(tc.phase), Reason: tc.reason}
		if is := StandsStill(e); is != tc.want {
			t.Errorf("%s %s: %v, want %v", tc.phase, tc.reason, is, tc.want)
		}
	}
}
