package controller

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// declareBlue declares a NodeENI in the subnet whose name is blue.
func (w *world) declareBlue(deleteOnTermination bool) {
	w.setNodeENI("blue", func(o *v1alpha1.NodeENI) {
		o.Spec = v1alpha1.NodeENISpec{
			NodeSelector: map[string]string{"role": "worker"}, SubnetName: "blue", SecurityGroupIDs: []string{sg1}, DeviceIndex: 1,
			DeleteOnTermination: &deleteOnTermination,
		}
	})
}

// setFault makes a NodeENI unreadable, also for those who have never read it before.
func (w *world) setFault(name, fault string) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	o := *w.api.enis[name]
	o.Fault, o.Known = fault, fault == ""
	w.putNodeENI(&o)
}

// unknowns hide from a new leader whether a NodeENI wants or keeps an ENI, and show it again.
var unknowns = map[string]struct {
	hide, show func(w *world, deny *atomic.Bool)
}{
	"subnet by name": {func(*world, *atomic.Bool) {}, func(*world, *atomic.Bool) {}},
	"subnet by name, and EC2 does not tell": {
		func(_ *world, deny *atomic.Bool) { deny.Store(true) },
		func(_ *world, deny *atomic.Bool) { deny.Store(false) },
	},
	"unreadable NodeENI": {
		func(w *world, _ *atomic.Bool) { w.setFault("blue", "spec.deviceIndex: a string") },
		func(w *world, _ *atomic.Bool) { w.setFault("blue", "") },
	},
}

// denySubnets keeps EC2 from describing subnets and groups while it is true.
func denySubnets(deny *atomic.Bool) func(*fakeec2.Config) {
	return func(c *fakeec2.Config) {
		c.May = func(action string, _ fakeec2.ENI) bool {
			return action != "DescribeSubnets" && action != "DescribeSecurityGroups" || !deny.Load()
		}
	}
}

// lose ends a node with its instance, and the leader decides about its ENIs.
func (w *world) lose(node string) {
	w.daemons[node].set(false)
	w.ec2.Terminate(instanceOf(node))
	time.Sleep(time.Minute)
	w.deleteNode(node)
	time.Sleep(5 * time.Minute)
}

// TestParkedUnknown: a new leader keeps a parked ENI, also while it cannot know that the ENI is one.
func TestParkedUnknown(t *testing.T) {
	for name, tt := range unknowns {
		for _, other := range []bool{false, true} { // whether another node is selected
			t.Run(name, func(t *testing.T) {
				story(t, func(t *testing.T) {
					var deny atomic.Bool
					w := newWorld(t, denySubnets(&deny), func(c *fakeec2.Config) { c.TerminateTakes = 20 * time.Second })
					w.addNode("node-1")
					c := w.lead()
					w.declareBlue(false)
					w.wait(time.Minute, "ready", func() bool { return w.entryOf("node-1").Phase == "Ready" })
					before := w.live()[0]
					w.lose("node-1")
					c.kill()
					tt.hide(w, &deny)
					w.lead()
					time.Sleep(25 * time.Minute) // two sweeps
					if live := w.live(); len(live) != 1 || live[0].ID != before.ID {
						t.Fatalf("parked: %+v, was %+v", live, before)
					}
					tt.show(w, &deny)
					if other {
						w.addNode("node-2")
						w.wait(10*time.Minute, "moved", func() bool { return w.entryOf("node-2").Phase == "Ready" })
						if live := w.live(); len(live) != 1 || live[0].ID != before.ID || !slices.Equal(live[0].IPv4, before.IPv4) {
							t.Errorf("moved: %+v, was %+v", live, before)
						}
					}
					w.deleteNodeENI("blue")
					w.wait(30*time.Minute, "gone", w.gone)
				})
			})
		}
	}
}

// TestWantedUnknown: without an entry, an ENI stays while nobody knows whether its NodeENI wants it.
func TestWantedUnknown(t *testing.T) {
	for name, tt := range unknowns {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				var deny atomic.Bool
				w := newWorld(t, denySubnets(&deny))
				w.addNode("node-1")
				c := w.lead()
				w.declareBlue(true)
				w.wait(time.Minute, "attached", w.attached(1))
				before := w.live()[0].ID
				c.kill()
				look := w.onState
				w.onState = func(node string) {
					if s := w.api.state(node); s != nil && len(s.Spec.Attachments) > 0 && s.Spec.Attachments[0].Wanted != v1alpha1.WantedAttached {
						t.Errorf("told to release %s", before)
					}
					look(node)
				}
				w.deleteState("node-1")
				tt.hide(w, &deny)
				w.lead()
				time.Sleep(25 * time.Minute)
				if live := w.live(); len(live) != 1 || live[0].ID != before || live[0].Instance == "" {
					t.Fatalf("left: %+v, want %s attached", live, before)
				}
				tt.show(w, &deny)
				w.wait(10*time.Minute, "the entry is back", func() bool { return w.entryOf("node-1").ENIID == before })
				if n := w.ec2.Tally("").Mutating; n != 3 {
					t.Errorf("%d mutating calls, want the 3 of the attach", n)
				}
			})
		})
	}
}

// TestSubnetEdited: the ENI of the old subnet goes first, as soon as its pod has ended, so that the new one has its place.
func TestSubnetEdited(t *testing.T) {
	story(t, func(t *testing.T) {
		w, _ := oneENI(t)
		w.wait(time.Minute, "ready", func() bool { return w.entryOf("node-1").Phase == "Ready" })
		before := w.live()[0].ID
		if w.daemons["node-1"].startPod("default/pod") == "" {
			t.Fatal("the pod has no ENI")
		}
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SubnetIDs = []string{a2} })
		time.Sleep(10 * time.Minute)
		if live := w.live(); len(live) != 1 || live[0].ID != before || live[0].Instance == "" {
			t.Fatalf("while the pod has it: %+v", live)
		}
		w.endPod("default/pod")
		w.wait(5*time.Minute, "moved", func() bool {
			live := w.live()
			return len(live) == 1 && live[0].SubnetID == a2 && live[0].AttachmentStatus == "attached"
		})
		if e := w.live()[0]; e.DeviceIndex != 1 {
			t.Errorf("at index %d, want 1", e.DeviceIndex)
		}
	})
}

// TestParkedOfUnreadable: an ENI of an ended node that cannot be read does not hold up the ENIs of other nodes.
func TestParkedOfUnreadable(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) { c.TerminateTakes = 20 * time.Second })
		w.addNode("node-1")
		w.lead()
		w.declareBlue(false)
		w.wait(time.Minute, "ready", func() bool { return w.entryOf("node-1").Phase == "Ready" })
		if w.daemons["node-1"].startPod("default/pod") == "" {
			t.Fatal("the pod has no ENI")
		}
		w.setNode("node-1", func(n *fleet.Node) { n.Labels["role"] = "idle" })
		time.Sleep(time.Minute) // it drains
		w.api.mu.Lock()
		o := *w.api.states["node-1"]
		o.Fault = "spec.attachments: a string"
		w.putState(&o)
		w.api.mu.Unlock()
		w.daemons["node-1"].set(false)
		w.endPod("default/pod")
		w.ec2.Terminate(instanceOf("node-1"))
		time.Sleep(15 * time.Minute)
		w.addNode("node-2")
		w.wait(5*time.Minute, "an ENI on the other node", func() bool { return w.entryOf("node-2").Phase == "Ready" })
	})
}
