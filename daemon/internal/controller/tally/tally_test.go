package tally_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/tally"
)

func TestTally(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var c tally.Tally
	c.Begin()
	c.SetNode("a", tally.Node{Slots: map[string]int{"Ready": 2, "Parked": 1}, Blocked: map[string]int{"SubnetFull": 1}, WaitsSince: now.Add(-time.Minute)})
	c.SetNode("b", tally.Node{Slots: map[string]int{"Ready": 1}, WaitsSince: now.Add(-time.Second)})
	c.SetNode("c", tally.Node{Slots: map[string]int{"Ready": 1}})
	c.SetNode("c", tally.Node{})
	c.Attached(1500 * time.Millisecond)
	c.Attached(time.Hour)
	c.Resynced(now, 3)
	c.OtherController(true)
	got := c.Snapshot(now, "Parked")
	want := tally.Snapshot{
		Leader: true, OtherController: true, Slots: map[string]int{"Ready": 3, "Parked": 1}, Blocked: map[string]int{"SubnetFull": 1},
		Leaked: 3, Parked: 1, ReleaseWait: time.Minute, Resynced: now, AttachSeconds: got.AttachSeconds,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	h := got.AttachSeconds
	if h.Counts[2] != 1 || h.Counts[len(h.Bounds)] != 1 || h.Sum != 3601.5 {
		t.Errorf("histogram %+v", h)
	}
	c.End()
	if got = c.Snapshot(now, "Parked"); got.Leader || len(got.Slots) != 0 || got.AttachSeconds.Sum != 3601.5 {
		t.Errorf("after the leadership: %+v", got)
	}
}
