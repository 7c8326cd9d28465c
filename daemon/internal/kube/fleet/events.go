package fleet

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/eventqueue"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Event is an Event to send. Like ones are counted, and at most 25 about one object are sent at once, then one every 5 minutes.
type Event struct {
	// NodeENI is the NodeENI that it is about; "" for Node.
	NodeENI, Node string
	// UID is the object's; "" if unknown.
	UID             string
	Warning         bool
	Reason, Message string
}

// Tell queues an Event. It does not block.
func (f *Fleet) Tell(e Event) {
	about := corev1.ObjectReference{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.Kind, Name: e.NodeENI, UID: types.UID(e.UID)}
	if e.NodeENI == "" {
		about = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.Node, UID: types.UID(e.UID)}
	}
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	f.events.Add(eventqueue.Event{About: about, Kind: kind, Reason: e.Reason, Message: e.Message})
}

// Dropped counts the Events given up.
func (f *Fleet) Dropped() uint64 { return f.events.Dropped() }
