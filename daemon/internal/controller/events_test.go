package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

func metav1Now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }

// TestEvents tells one story for each Event, which must be sent once.
func TestEvents(t *testing.T) {
	for reason, tt := range map[string]struct {
		config func(*fakeec2.Config)
		tell   func(w *world)
	}{
		"ENICreationFailed":   {nil, func(w *world) { w.ec2.Fail("CreateNetworkInterface", "OperationNotPermitted") }},
		"NotPermitted":        {nil, func(w *world) { w.ec2.Fail("CreateNetworkInterface", "OperationNotPermitted") }},
		"ENIAttachmentFailed": {nil, func(w *world) { w.ec2.Fail("AttachNetworkInterface", "OperationNotPermitted") }},
		"ENIDetachmentFailed": {nil, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.ec2.Fail("DetachNetworkInterface", "OperationNotPermitted")
			w.deleteNodeENI("blue")
		}},
		"ENIDeletionFailed": {nil, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.ec2.Fail("DeleteNetworkInterface", "OperationNotPermitted")
			w.deleteNodeENI("blue")
		}},
		"ENIAlreadyDeleted": {nil, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.ec2.Fail("DeleteNetworkInterface", "InvalidNetworkInterfaceID.NotFound")
			w.deleteNodeENI("blue")
		}},
		"WaitingForNode": {nil, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.daemons["node-1"].set(false)
			w.setNode("node-1", func(n *fleet.Node) { n.Ready = false })
			w.deleteNodeENI("blue")
		}},
		"DaemonTooOld": {nil, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.daemons["node-1"].set(false)
			w.setStatus("node-1", func(s *fleet.State) { s.Protocol = 0 })
			w.deleteNodeENI("blue")
		}},
		"DetachStuck": {func(c *fakeec2.Config) { c.Stuck = func(fakeec2.ENI) bool { return true } }, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.deleteNodeENI("blue")
		}},
		"Abandoned": {nil, func(w *world) {
			w.wait(time.Minute, "attached", w.attached(1))
			w.daemons["node-1"].set(false)
			w.deleteNodeENI("blue")
			time.Sleep(time.Minute)
			w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Annotations[slots.AnnotationAbandon] = "true" })
			w.wait(time.Minute, "NodeENI gone", func() bool { return w.nodeENI("blue") == nil })
		}},
		"InvalidSubnet": {nil, func(w *world) {
			w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SubnetIDs = []string{"subnet-0000dead"} })
		}},
		"NoSubnetInZone": {nil, func(w *world) { w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SubnetIDs = []string{b1} }) }},
		"NoFreeInterface": {nil, func(w *world) {
			for _, name := range []string{"c1", "c2", "c3", "c4", "c5", "c6", "c7"} { // with the primary one and blue's, one too many
				w.declare(name, 1, a2)
			}
		}},
	} {
		t.Run(reason, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := newWorld(t, tt.config)
				w.addNode("node-1")
				w.lead()
				time.Sleep(time.Second)
				w.declare("blue", 1, a1)
				tt.tell(w)
				time.Sleep(40 * time.Minute)
				w.must(map[string]int{reason: 1})
				for _, e := range w.events {
					if e.Warning && e.Node != "node-1" && !slices.Contains([]string{slots.InvalidSubnet, lifecycle.Abandoned}, e.Reason) {
						t.Errorf("Event %+v, want it also for node-1", e)
					}
					if e.Message == "" || e.NodeENI == "" || e.UID == "" || strings.Contains(e.Message, "%!") {
						t.Errorf("Event %+v", e)
					}
				}
			})
		})
	}
}

func TestStatusTruncated(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.grow(slots.MaxStatus + 1)
		w.declare("blue", 1, a1)
		w.lead()
		time.Sleep(5 * time.Minute)
		w.must(map[string]int{"StatusTruncated": 1})
		if n := len(w.nodeENI("blue").Is.Status.Attachments); n != slots.MaxStatus {
			t.Errorf("%d attachments listed, want %d", n, slots.MaxStatus)
		}
		if n := w.writes["status"]; n > 30 {
			t.Errorf("%d writes of the status of one NodeENI", n)
		}
	})
}

func TestStaleStateIsDeleted(t *testing.T) {
	story(t, func(t *testing.T) {
		w, _ := oneENI(t)
		old := w.states["node-1"].UID
		// The Node is made again, and the garbage collector is slow.
		w.api.mu.Lock()
		delete(w.api.nodes, "node-1")
		w.api.mu.Unlock()
		w.setNode("node-1", func(n *fleet.Node) {
			*n = fleet.Node{ProviderID: "aws:///" + zone(0) + "/" + instanceOf("node-1"), Ready: true, Labels: map[string]string{
				"topology.kubernetes.io/zone": zone(0), "node.kubernetes.io/instance-type": "m5.4xlarge", "role": "worker",
			}}
		})
		w.wait(time.Minute, "a new ENINodeState", func() bool {
			w.api.mu.Lock()
			defer w.api.mu.Unlock()
			s := w.states["node-1"]
			return s != nil && s.UID != old && len(s.Is.Spec.Attachments) == 1
		})
		if n := w.ec2.Tally("").Mutating; n != 3 {
			t.Errorf("%d mutating calls, want the 3 of the attach", n)
		}
	})
}

func TestUnreadableStays(t *testing.T) {
	story(t, func(t *testing.T) {
		w, _ := oneENI(t)
		w.api.mu.Lock()
		o := *w.api.enis["blue"]
		o.Fault = "spec.deviceIndex: a string"
		w.putNodeENI(&o)
		w.api.mu.Unlock()
		w.declare("green", 2, a2)
		w.wait(time.Minute, "green attached", func() bool { return len(w.live()) == 2 })
		time.Sleep(30 * time.Minute)
		if n := len(w.live()); n != 2 {
			t.Errorf("%d ENIs, want 2", n)
		}
		w.must(map[string]int{"UnreadableNodeENI": 1})
	})
}
