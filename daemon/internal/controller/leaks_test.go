package controller

import (
	"slices"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

func TestParkedMoves(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) { c.TerminateTakes = 20 * time.Second })
		w.addNode("node-1")
		c := w.lead()
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) {
			o.Spec = v1alpha1.NodeENISpec{
				NodeSelector: map[string]string{"role": "worker"}, SubnetIDs: []string{a1}, SecurityGroupIDs: []string{sg1}, DeviceIndex: 1,
				DeleteOnTermination: new(false),
			}
		})
		ready := func(node string) func() bool {
			return func() bool {
				s := w.state(node)
				return s != nil && len(s.Spec.Attachments) == 1 && s.Spec.Attachments[0].Phase == "Ready"
			}
		}
		w.wait(time.Minute, "attached", ready("node-1"))
		before := w.live()[0]
		w.lose("node-1")
		c.kill()
		w.lead()
		time.Sleep(25 * time.Minute) // two sweeps
		if live := w.live(); len(live) != 1 || live[0].ID != before.ID || live[0].Instance != "" {
			t.Fatalf("parked: %+v", live)
		}
		w.addNode("node-2")
		w.wait(5*time.Minute, "moved", ready("node-2"))
		if live := w.live(); len(live) != 1 || live[0].ID != before.ID || !slices.Equal(live[0].IPv4, before.IPv4) {
			t.Errorf("moved: %+v, was %+v", live, before)
		}
		w.deleteNodeENI("blue")
		w.wait(5*time.Minute, "gone", w.gone)
	})
}

// TestLeakedENIs: the metric counts ENIs with the cluster's tag in each round. The public controller's are logged once, and never counted.
func TestLeakedENIs(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) {
			c.ENIs = []fakeec2.ENI{
				{ID: "eni-0000000b", MAC: "06:00:00:00:00:0b", SubnetID: a1, Tags: map[string]string{slots.TagCluster: "cluster-1", slots.TagSlot: "0123456789abcdef"}},
				{ID: "eni-0000000c", MAC: "06:00:00:00:00:0c", SubnetID: a1, Tags: map[string]string{"NodeENI": "gone", slots.TagManagedBy: slots.ManagedBy}},
			}
		})
		log, lines := logtest.NewNullLogger()
		w.log = log
		c := w.lead(func(o *Options) { o.LeakSweep = outside.SweepReport })
		time.Sleep(time.Minute)
		for round := range 3 {
			if n := c.tally.Snapshot(time.Now(), "Parked").Leaked; n != 1 {
				t.Errorf("after round %d %d ENIs are leaked, want 1", round+1, n)
			}
			time.Sleep(resyncEvery)
		}
		said := map[any]int{}
		for _, e := range lines.AllEntries() {
			said[e.Data["eni"]]++
		}
		if said["eni-0000000b"] != 1 || said["eni-0000000c"] != 1 {
			t.Errorf("each is to be logged once: %v", said)
		}
	})
}

func TestLeakSweep(t *testing.T) {
	for how, want := range map[outside.Sweep]int{outside.SweepDelete: 0, outside.SweepReport: 1, outside.SweepOff: 1} {
		t.Run(string(how), func(t *testing.T) {
			story(t, func(t *testing.T) {
				leak := fakeec2.ENI{ID: "eni-0000000b", MAC: "06:00:00:00:00:0b", SubnetID: a1, Tags: map[string]string{
					slots.TagCluster: "cluster-1", slots.TagSlot: "0123456789abcdef", slots.TagNodeENI: "gone", slots.TagInstance: "i-0000000000000001",
					slots.TagNode: "node-9", "NodeENI": "gone",
				}}
				foreign := leak
				foreign.ID, foreign.MAC = "eni-0000000c", "06:00:00:00:00:0c"
				foreign.Tags = map[string]string{slots.TagCluster: "cluster-2", slots.TagSlot: "0123456789abcdef"}
				w := newWorld(t, func(c *fakeec2.Config) { c.ENIs = []fakeec2.ENI{leak, foreign} })
				w.lead(func(o *Options) { o.LeakSweep = how })
				time.Sleep(9 * time.Minute)
				if !w.ec2.ENI(leak.ID).Deleted.IsZero() {
					t.Error("deleted although it was seen once")
				}
				time.Sleep(15 * time.Minute)
				if (w.ec2.ENI(leak.ID).Deleted.IsZero()) != (want == 1) || !w.ec2.ENI(foreign.ID).Deleted.IsZero() {
					t.Errorf("leak deleted %v, another cluster's %v", w.ec2.ENI(leak.ID).Deleted, w.ec2.ENI(foreign.ID).Deleted)
				}
			})
		})
	}
}
