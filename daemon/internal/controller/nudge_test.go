package controller

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// refusing lets EC2 answer an action with a code while it is not "".
func refusing(action string, code *atomic.Value, calls *atomic.Int32) func(*fakeec2.Config) {
	return func(c *fakeec2.Config) {
		c.Fault = func(a string) string {
			if a != action {
				return ""
			}
			calls.Add(1)
			text, _ := code.Load().(string)
			return text
		}
	}
}

// TestChangeNudges: a refused call is made again at once after a change that it depends on, and not after any other news.
func TestChangeNudges(t *testing.T) {
	for _, tc := range []struct {
		name, action, code string
		change             func(w *world)
	}{
		{"group", "CreateNetworkInterface", "InvalidGroup.NotFound", func(w *world) {
			w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SecurityGroupIDs = []string{sg2} })
		}},
		{"generation", "CreateNetworkInterface", "InvalidSubnetID.NotFound", func(w *world) {
			w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.MTU = 1400 })
		}},
		{"label", "AttachNetworkInterface", "AttachmentLimitExceeded", func(w *world) {
			w.setNode("node-1", func(n *fleet.Node) { n.Labels["size"] = "large" })
		}},
		{"ready", "AttachNetworkInterface", "AttachmentLimitExceeded", func(w *world) {
			w.setNode("node-1", func(n *fleet.Node) { n.Ready = false })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				var code atomic.Value
				var calls atomic.Int32
				code.Store(tc.code)
				w := newWorld(t, refusing(tc.action, &code, &calls))
				w.addNode("node-1")
				w.declare("blue", 1, a1)
				w.lead()
				w.wait(20*time.Second, "the first call", func() bool { return calls.Load() == 1 })
				for range 15 {
					time.Sleep(2 * time.Second)
					w.setStatus("node-1", func(s *fleet.State) { s.Devices = append(s.Devices, fleet.Device{ENI: "eni-1"}) })
					w.setNode("node-1", func(*fleet.Node) {})
				}
				if n := calls.Load(); n != 1 {
					t.Errorf("%d calls without a change, want 1", n)
				}
				code.Store("")
				tc.change(w)
				w.wait(10*time.Second, "attached after the change", func() bool { return len(w.live()) == 1 && w.live()[0].AttachmentStatus == "attached" })
			})
		})
	}
}

// TestStartedInstance: the event of a Node that is ready again ends the wait for its instance.
func TestStartedInstance(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.addNode("node-1")
		w.ec2.StopInstance(instanceOf("node-1"))
		w.setNode("node-1", func(n *fleet.Node) { n.Ready = false })
		time.Sleep(5 * time.Minute)
		w.declare("blue", 1, a1)
		c := w.lead()
		w.wait(time.Minute, "InstanceNotRunning", func() bool { return c.tally.Snapshot(time.Now(), "").Blocked["InstanceNotRunning"] == 1 })
		time.Sleep(5 * time.Second)
		w.ec2.StartInstance(instanceOf("node-1"))
		time.Sleep(10 * time.Second)
		w.setNode("node-1", func(n *fleet.Node) { n.Ready = true })
		w.wait(10*time.Second, "attached", w.attached(1))
	})
}

// TestUnlabelledNode: without a label, or with a wrong one, the type is the instance's own.
func TestUnlabelledNode(t *testing.T) {
	for _, label := range []string{"", "m9.none"} {
		story(t, func(t *testing.T) {
			w := newWorld(t)
			w.addNode("node-1")
			w.setNode("node-1", func(n *fleet.Node) {
				delete(n.Labels, "node.kubernetes.io/instance-type")
				if label != "" {
					n.Labels["node.kubernetes.io/instance-type"] = label
				}
			})
			w.declare("blue", 1, a1)
			w.lead()
			w.wait(20*time.Second, "attached", w.attached(1))
		})
	}
}

// TestAdoptionConflict: no ENI is made beside one of the public controller on which status, tag and instance disagree.
func TestAdoptionConflict(t *testing.T) {
	for _, tc := range []struct{ name, tag, attachment string }{
		{"tag", "green", "eni-attach-0000000a"},
		{"attachment", "blue", "eni-attach-0000000b"},
		{"no status", "blue", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := newWorld(t, func(c *fakeec2.Config) {
					c.ENIs = []fakeec2.ENI{{
						ID: "eni-0000000a", MAC: "06:00:00:00:00:0a", SubnetID: a1, Instance: instanceOf("node-1"), DeviceIndex: 2, Groups: []string{sg1},
						AttachmentStatus: "attached", DeleteOnTermination: true, Tags: map[string]string{"NodeENI": tc.tag, slots.TagManagedBy: slots.ManagedBy},
					}}
					c.Instances = []fakeec2.Instance{{ID: instanceOf("node-1"), Type: "m5.4xlarge", SubnetID: a1}}
				})
				w.setNode("node-1", func(n *fleet.Node) {
					*n = fleet.Node{ProviderID: "aws:///" + zone(0) + "/" + instanceOf("node-1"), Ready: true, Labels: map[string]string{"role": "worker"}}
				})
				w.declare("blue", 1, a1)
				if tc.attachment != "" {
					w.setNodeENI("blue", func(o *v1alpha1.NodeENI) {
						o.Status.Attachments = []v1alpha1.ENIAttachment{{
							NodeID: "node-1", InstanceID: instanceOf("node-1"), ENIID: "eni-0000000a", AttachmentID: tc.attachment, SubnetID: a1,
							Status: "attached", LastUpdated: metav1Now(),
						}}
					})
				}
				c := w.lead(func(o *Options) { o.AdoptPublic = true })
				time.Sleep(30 * time.Minute)
				if n := w.ec2.Tally("").Mutating; n != 0 {
					t.Errorf("%d mutating calls, want none", n)
				}
				if n := c.tally.Snapshot(time.Now(), "").Blocked["AdoptionConflict"]; n != 1 {
					t.Errorf("%d slots blocked\n%s", n, w.describe())
				}
				w.api.mu.Lock()
				defer w.api.mu.Unlock()
				for _, e := range w.events {
					if e.Reason == "AdoptionConflict" && strings.Contains(e.Message, "eni-0000000a") && strings.Contains(e.Message, tc.tag) {
						return
					}
				}
				t.Errorf("no Event names the ENI: %v", w.events)
			})
		})
	}
}

// TestPublicENIEnds: the status of a NodeENI loses an ENI of the public controller that has ended with its instance before it was adopted.
func TestPublicENIEnds(t *testing.T) {
	story(t, func(t *testing.T) {
		w, a := publicWorld(t)
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Status.Attachments[0].AttachmentID = "eni-attach-0000000b" })
		c := w.lead(func(o *Options) { o.AdoptPublic = true })
		w.wait(10*time.Minute, "a conflict", func() bool { return c.tally.Snapshot(time.Now(), "").Blocked["AdoptionConflict"] == 1 })
		w.ec2.Terminate(instanceOf("node-1"))
		w.deleteNode("node-1")
		w.wait(25*time.Minute, "a status without it", func() bool { return len(w.nodeENI("blue").Is.Status.Attachments) == 0 })
		if w.ec2.ENI(a.ENIID).Deleted.IsZero() {
			t.Error("it is still there")
		}
	})
}
