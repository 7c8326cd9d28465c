package report

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestTell(t *testing.T) {
	sent := historyFrom(v1alpha1.ENINodeStateStatus{})
	step := func(when string, v view.View, want ...string) {
		t.Helper()
		got := []string{}
		for _, n := range sent.events(reportNode, v) {
			got = append(got, n.kind+" "+n.about.Kind+" "+n.about.Name+" "+string(n.about.UID)+" "+string(n.reason))
		}
		if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	v := readyView()
	v.Inventory.Problems = []nodestate.Problem{
		{Reason: "NotAttached", NodeENI: "a", Message: "m"}, {Reason: "InvalidMTU", NodeENI: "a", Message: "m"}, {Reason: "ConfigUnwritable", Message: "m"},
	}
	step("at first", v, "Normal NodeENI a u-a DeviceReady", "Warning NodeENI a u-a InvalidMTU", "Warning Node node-a u-node ConfigUnwritable")
	step("while it lasts", v)
	v.Did.Restart = &view.RestartDone{Result: view.RestartFailed, Err: client.ErrNoNews}
	step("a failed restart", v, "Warning Node node-a u-node DevicePluginRestartFailed")
	step("another", v)
	v.Did.Restart = &view.RestartDone{Result: view.RestartVerified, Deleted: []string{"kube-system/x"}}
	step("a good one", v, "Normal Node node-a u-node DevicePluginRestarted")
	v.Did.Restart = &view.RestartDone{Result: view.RestartNoneFound}
	step("none found", v, "Warning Node node-a u-node DevicePluginNotFound")
	v.Did.Restart = nil
	v.Declared, v.Inventory.Devices[0].Phase = nil, nodestate.PhaseDraining
	v.Holders = []view.Holder{{PCIAddress: "0000:00:06.0", Pod: "red/p", Container: "c"}, {PCIAddress: "0000:00:06.0", Pod: "red/p", PodUID: "u-p"}}
	step("removed", v, "Normal NodeENI a u-a DeviceRemoved", "Warning Pod p u-p DeviceRemoved")
	step("while it drains", v)
	v.Inventory.Devices = nil
	step("released", v, "Normal NodeENI a u-a DeviceReleased")
	step("gone", v)
}

// TestTellNotAttached: an ENI that a controller attaches within a minute makes no Event; later it makes one, which says the way out.
func TestTellNotAttached(t *testing.T) {
	p := nodestate.Problem{Reason: "NotAttached", NodeENI: "a", Message: "m"}
	lasting := readyView()
	lasting.Inventory.Devices, lasting.Inventory.Problems = nil, []nodestate.Problem{p, p}
	over := readyView()
	over.Inventory.Devices = nil
	type step struct {
		at   time.Duration
		v    view.View
		want int
	}
	for name, tc := range map[string]struct {
		before v1alpha1.ENINodeStateStatus
		steps  []step
	}{
		"lasts": {steps: []step{{0, lasting, 0}, {59 * time.Second, lasting, 0}, {time.Minute, lasting, 1}, {2 * time.Minute, lasting, 0},
			{time.Hour, lasting, 0}}},
		"attached soon": {steps: []step{{0, lasting, 0}, {50 * time.Second, over, 0}, {70 * time.Second, lasting, 0}, {80 * time.Second, over, 0}}},
		"comes back": {steps: []step{{0, lasting, 0}, {time.Minute, lasting, 1}, {2 * time.Minute, over, 0}, {3 * time.Minute, lasting, 0},
			{4 * time.Minute, lasting, 1}}},
		"the clock was set back": {steps: []step{{time.Hour, lasting, 0}, {0, lasting, 0}, {59 * time.Second, lasting, 0}, {time.Minute, lasting, 1}}},
		"an earlier daemon knows": {v1alpha1.ENINodeStateStatus{Problems: []v1alpha1.ProblemState{{Reason: "NotAttached", NodeENI: "a", Message: "m"}}},
			[]step{{0, lasting, 0}, {time.Hour, lasting, 0}}},
	} {
		sent := historyFrom(tc.before)
		for _, s := range tc.steps {
			s.v.At = readyView().At.Add(s.at)
			events := sent.events(reportNode, s.v)
			if len(events) != s.want {
				t.Errorf("%s, after %v: %d Events, want %d", name, s.at, len(events), s.want)
			}
			for _, n := range events {
				if n.reason != "NotAttached" || n.about.Kind != "NodeENI" || n.about.Name != "a" || n.kind != "Warning" {
					t.Errorf("%s: Event %+v", name, n)
				}
			}
		}
	}
}
