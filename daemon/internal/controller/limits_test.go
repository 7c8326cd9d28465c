package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// TestRefusedBeforeCreate: where an ENI has no place, none is created, and the message names the present ones.
func TestRefusedBeforeCreate(t *testing.T) {
	for name, tt := range map[string]struct {
		kind    string
		subnets []string
		creates int
		reason  string
		words   []string
	}{
		"full instance":       {"m5.large", []string{a1, a2, small}, 2, slots.NoFreeInterface, []string{"takes 3 ENIs", "eni-", "larger type"}},
		"other zone":          {"m5.large", []string{b1}, 0, slots.NoSubnetInZone, []string{b1 + " in " + zone(1), "zone " + zone(0), "node-1", "blue"}},
		"subnet named twice":  {"m5.large", []string{a1, a1}, 1, "", nil},
		"some of other zones": {"m5.large", []string{b1, a1, a1}, 1, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := newWorld(t)
				w.addNode("node-1", func(n *fleet.Node) { n.Labels["node.kubernetes.io/instance-type"] = tt.kind })
				w.lead()
				w.declare("blue", 1, tt.subnets...)
				time.Sleep(time.Hour)
				if all := w.ec2.Tally("CreateNetworkInterface"); all.Calls != tt.creates || len(w.live()) != tt.creates {
					t.Errorf("%d calls of Create, %d ENIs, want %d\n%s", all.Calls, len(w.live()), tt.creates, w.describe())
				}
				if n := w.ec2.Tally("DeleteNetworkInterface").Calls; n != 0 {
					t.Errorf("%d calls of Delete", n)
				}
				if tt.reason == "" {
					return
				}
				told := w.eventsOf(tt.reason)
				if len(told) != 1 {
					t.Fatalf("told %q", told)
				}
				for _, word := range tt.words {
					if !strings.Contains(told[0], word) {
						t.Errorf("%q lacks %q", told[0], word)
					}
				}
			})
		})
	}
}

// TestOneOwner: one parked ENI and two nodes: one gets it, and the other one a new ENI.
func TestOneOwner(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.addNode("node-1")
		w.lead()
		w.declare("blue", 1, a1)
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.DeleteOnTermination = new(false) })
		w.wait(time.Minute, "attached", w.phase("node-1", "Ready"))
		parked := w.live()[0]
		w.daemons["node-1"].set(false)
		w.ec2.Terminate(instanceOf("node-1"))
		time.Sleep(time.Minute)
		w.deleteNode("node-1")
		time.Sleep(time.Minute)
		w.addNode("node-2")
		w.addNode("node-3")
		w.wait(10*time.Minute, "both", func() bool { return w.phase("node-2", "Ready")() && w.phase("node-3", "Ready")() })
		time.Sleep(30 * time.Minute)
		live := w.live()
		if len(live) != 2 || live[0].Instance == live[1].Instance || !slices.ContainsFunc(live, func(e fakeec2.ENI) bool {
			return e.ID == parked.ID && slices.Equal(e.IPv4, parked.IPv4)
		}) {
			t.Errorf("%s was parked; now there are\n%s", parked.ID, w.describe())
		}
		if n := w.ec2.Tally("CreateNetworkInterface").Calls; n != 2 {
			t.Errorf("%d calls of Create, want 2", n)
		}
	})
}

// phase says whether the node has one entry, in this phase.
func (w *world) phase(node, phase string) func() bool {
	return func() bool {
		s := w.state(node)
		return s != nil && len(s.Spec.Attachments) == 1 && s.Spec.Attachments[0].Phase == phase
	}
}

// TestSweepRounds: 50 leaks go in each round, and ENIs of the public controller stay.
func TestSweepRounds(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) {
			for i := range 120 {
				c.ENIs = append(c.ENIs, fakeec2.ENI{ID: fmt.Sprintf("eni-%08x", i+1), MAC: fmt.Sprintf("06:00:00:00:00:%02x", i), SubnetID: a1,
					Tags: map[string]string{
						slots.TagCluster: "cluster-1", slots.TagSlot: fmt.Sprintf("%016x", i), slots.TagNodeENI: "gone", slots.TagInstance: "i-0000000000000001",
						slots.TagNode: "node-9", "NodeENI": "gone",
					}})
			}
			c.ENIs = append(c.ENIs, fakeec2.ENI{ID: "eni-0000ffff", MAC: "06:00:00:00:01:00", SubnetID: a1, Tags: map[string]string{
				"NodeENI": "gone", slots.TagManagedBy: slots.ManagedBy, slots.TagNoManage: "true",
			}})
		})
		w.lead()
		for round, want := range []int{0, 50, 100, 120, 120} {
			time.Sleep(time.Duration(1+9*min(round, 1)) * time.Minute)
			if n := w.ec2.Tally("DeleteNetworkInterface").Mutating; n != want {
				t.Errorf("after round %d %d ENIs are deleted, want %d", round+1, n, want)
			}
		}
		if !w.ec2.ENI("eni-0000ffff").Deleted.IsZero() {
			t.Error("the public controller's is deleted")
		}
	})
}

// TestExternalStays: somebody else's ENI at the slot's place satisfies it, and nothing about it is changed, also when the NodeENI goes. An hour costs
// six lists of the region's ENIs, and one look at the instance and its ENIs.
func TestExternalStays(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, oneStranger)
		w.addStrangersNode()
		w.lead()
		w.declare("blue", 1, a1)
		w.wait(time.Minute, "External", w.phase("node-1", "External"))
		time.Sleep(time.Minute)
		before := w.ec2.Tally("").Calls
		time.Sleep(time.Hour)
		if n := w.ec2.Tally("").Calls - before; n != 8 {
			t.Errorf("%d calls in an hour, want 8: %v", n, w.ec2.Calls())
		}
		w.deleteNodeENI("blue")
		w.wait(5*time.Minute, "gone", func() bool { return w.nodeENI("blue") == nil })
		if n := w.ec2.Tally("").Mutating; n != 0 {
			t.Errorf("%d mutating calls: %v", n, w.ec2.Calls())
		}
	})
}

// TestExternalIsOfOneSlot: of two slots at one place, somebody else's ENI satisfies one. It stays with this slot, also under a new leader that would
// choose another one, until the slot goes.
func TestExternalIsOfOneSlot(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, oneStranger)
		w.addStrangersNode()
		c := w.lead()
		phases := func() string {
			list := []string{}
			if s := w.state("node-1"); s != nil {
				for _, e := range s.Spec.Attachments {
					list = append(list, fmt.Sprintf("%s %s %v %d", e.NodeENI.Name, e.Phase, e.ENIID == "eni-0000000e", e.DeviceIndex))
				}
			}
			slices.Sort(list)
			return strings.Join(list, ", ")
		}
		are := func(want string) {
			t.Helper()
			w.wait(2*time.Minute, want, func() bool { return phases() == want })
			time.Sleep(25 * time.Minute)
			if now := phases(); now != want {
				t.Errorf("later %q, want %q", now, want)
			}
		}
		w.declare("green", 1, a1)
		are("green External true 1")
		w.declare("blue", 1, a1) // its name comes first
		are("blue Ready false 2, green External true 1")
		w.declare("amber", 1, a1)
		c.kill()
		w.lead()
		are("amber Ready false 3, blue Ready false 2, green External true 1")
		w.deleteNodeENI("green")
		are("amber Ready false 3, blue Ready false 2")
	})
}

// oneStranger adds an instance for node-1, with somebody else's ENI at device index 1.
func oneStranger(c *fakeec2.Config) {
	c.ENIs = []fakeec2.ENI{{ID: "eni-0000000e", MAC: "06:00:00:00:00:0e", SubnetID: a1, Instance: instanceOf("node-1"), DeviceIndex: 1,
		AttachmentStatus: "attached", Tags: map[string]string{slots.TagNoManage: "true", "foreign": "yes"}}}
	c.Instances = []fakeec2.Instance{{ID: instanceOf("node-1"), Type: "m5.4xlarge", SubnetID: a1, Tags: map[string]string{"kubernetes.io/cluster/test": "owned"}}}
}

func (w *world) addStrangersNode() {
	w.daemons["node-1"] = &daemon{world: w, node: "node-1", reaction: time.Second, protocol: v1alpha1.Protocol, alive: true}
	w.setNode("node-1", func(n *fleet.Node) {
		*n = fleet.Node{ProviderID: "aws:///" + zone(0) + "/" + instanceOf("node-1"), Ready: true, Labels: map[string]string{
			"topology.kubernetes.io/zone": zone(0), "node.kubernetes.io/instance-type": "m5.4xlarge", "role": "worker",
		}}
	})
}

// TestAbandonedLists: the Event lists the ENIs that are left, and nothing more is done about them.
func TestAbandonedLists(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.addNode("node-1")
		w.lead()
		w.declare("blue", 1, a1)
		w.wait(time.Minute, "attached", w.attached(1))
		w.daemons["node-1"].set(false)
		w.deleteNodeENI("blue")
		time.Sleep(time.Minute)
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Annotations[slots.AnnotationAbandon] = "true" })
		w.wait(time.Minute, "NodeENI gone", func() bool { return w.nodeENI("blue") == nil })
		if told := w.eventsOf("Abandoned"); len(told) != 1 || !strings.Contains(told[0], w.live()[0].ID) {
			t.Errorf("told %q, left %v", told, w.live()[0].ID)
		}
	})
}
