package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// jammed is a world whose controller has many more calls to make than EC2 takes in the next minute.
func jammed(t *testing.T) *world {
	t.Helper()
	nodes := 240
	if testing.Short() {
		nodes = 120
	}
	w := newWorld(t)
	w.grow(nodes)
	w.leadAt(4, 20)
	time.Sleep(time.Minute)
	w.declare("blue", 1, a1)
	time.Sleep(10 * time.Second)
	return w
}

// TestQueuedBesideAnother: calls that wait for EC2's rate are not sent any more when another controller appears.
func TestQueuedBesideAnother(t *testing.T) {
	for name, begin := range map[string]func(w *world){
		"lease":                   func(w *world) { w.setRival(&fleet.Rival{Namespace: "other", Holder: "public"}) },
		"no right to list Leases": func(w *world) { w.denyRival(true) },
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := jammed(t)
				nodes := len(w.daemons)
				begin(w)
				time.Sleep(rivalEvery + time.Second)
				calls := w.ec2.Tally("").Mutating
				time.Sleep(10 * time.Minute)
				if n := w.ec2.Tally("").Mutating - calls; n != 0 {
					t.Errorf("%d mutating calls beside another controller", n)
				}
				w.must(map[string]int{"OtherController": 1})
				w.setRival(nil)
				w.denyRival(false)
				w.wait(20*time.Minute, "all attached", func() bool { return w.ec2.Tally("ModifyNetworkInterfaceAttribute").Calls == nodes })
			})
		})
	}
}

// TestQueuedUnwanted: no ENI is created any more for a NodeENI that has been deleted, though its Creates were waiting for EC2's rate.
func TestQueuedUnwanted(t *testing.T) {
	for name, drop := range map[string]func(w *world){
		"deleted": func(w *world) { w.deleteNodeENI("blue") },
		"deselected": func(w *world) {
			for name := range w.daemons {
				w.setNode(name, func(n *fleet.Node) { n.Labels["role"] = "idle" })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := jammed(t)
				drop(w)
				time.Sleep(time.Second)
				created := w.ec2.Tally("CreateNetworkInterface").Calls
				took := w.wait(10*time.Minute, "nothing is left", func() bool { return len(w.live()) == 0 })
				if n := w.ec2.Tally("CreateNetworkInterface").Calls - created; n != 0 {
					t.Errorf("%d ENIs were created for nobody", n)
				}
				t.Logf("%d ENIs had been created, and were gone after %v", created, took)
			})
		})
	}
}

// TestQueuedEdited: a Create that waits for EC2's rate is sent as the newest NodeENI has it.
func TestQueuedEdited(t *testing.T) {
	story(t, func(t *testing.T) {
		w := jammed(t)
		nodes := len(w.daemons)
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SecurityGroupIDs = []string{sg2} })
		edited := time.Now().Add(time.Second)
		w.wait(20*time.Minute, "all created", func() bool { return len(w.live()) == nodes })
		for _, e := range w.ec2.Events() {
			if e.Action == "CreateNetworkInterface" && e.At.After(edited) && !slices.Equal(e.ENI.Groups, []string{sg2}) {
				t.Fatalf("%v after the edit %s was created in %v", e.At.Sub(edited), e.ENI.ID, e.ENI.Groups)
			}
		}
	})
}
