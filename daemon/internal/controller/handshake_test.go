package controller

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var errTest = errors.New("a fault of the test")

// entryOf returns the only entry of a node; the zero value without one.
func (w *world) entryOf(node string) v1alpha1.AttachmentEntry {
	if s := w.api.state(node); s != nil && len(s.Spec.Attachments) == 1 {
		return s.Spec.Attachments[0]
	}
	return v1alpha1.AttachmentEntry{}
}

func (w *world) select1(node string, is bool) {
	w.setNode(node, func(n *fleet.Node) {
		if delete(n.Labels, "role"); is {
			n.Labels["role"] = "worker"
		}
	})
}

// TestStaleLeader: a leader whose informers have stood still since a release does not detach an ENI that another leader has given back.
func TestStaleLeader(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		var unsure atomic.Bool
		w.fault = func(doing string) (before, after error) {
			if doing == "confirm" && unsure.Load() {
				return errTest, nil
			}
			return nil, nil
		}
		w.addNode("node-1")
		w.declare("blue", 1, a1)
		first := w.lead()
		w.wait(time.Minute, "attached", w.attached(1))
		unsure.Store(true)
		w.select1("node-1", false)
		w.wait(time.Minute, "released", func() bool { s := w.api.state("node-1"); return s != nil && len(s.Released) == 1 })
		time.Sleep(10 * time.Second)
		first.kill()
		stale := w.lead()
		defer stale.kill()
		stale.forget() // it learns nothing any more
		w.select1("node-1", true)
		other := w.lead()
		defer other.kill()
		d := w.daemons["node-1"]
		w.wait(time.Minute, "a pod gets the device again", func() bool { return d.startPod("default/pod") != "" })
		unsure.Store(false)
		time.Sleep(10 * time.Minute)
		if !w.attached(1)() {
			t.Error(w.describe())
		}
	})
}
