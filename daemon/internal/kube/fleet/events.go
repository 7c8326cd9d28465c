package fleet

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/eventqueue"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Event is an Event to send. Like ones are counted, and at most 25 about one object are sent at once, then one every 5 minutes.
type Event struct {
	// NodeENI and UID are those that it is about. A warning also goes to Node, unless that is "" or there is none.
	NodeENI, UID, Node string

	Warning         bool
	Reason, Message string
}

// Tell queues an Event. It does not block.
func (f *Fleet) Tell(e Event) {
	about := corev1.ObjectReference{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.Kind, Name: e.NodeENI, UID: types.UID(e.UID)}
	if !e.Warning {
		f.events.Add(eventqueue.Event{About: about, Kind: corev1.EventTypeNormal, Reason: e.Reason, Message: e.Message})
		return
	}
	f.events.Add(eventqueue.Event{About: about, Kind: corev1.EventTypeWarning, Reason: e.Reason, Message: e.Message})
	if n := f.Node(e.Node); n != nil {
		message, name := e.Message, "NodeENI "+e.NodeENI
		if !strings.Contains(message, name) {
			message = name + ": " + message
		}
		about = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.Node, UID: types.UID(n.UID)} // kubectl describe asks for the UID
		f.events.AddSpare(eventqueue.Event{About: about, Kind: corev1.EventTypeWarning, Reason: e.Reason, Message: message})
	}
}

// Dropped counts the Events given up.
func (f *Fleet) Dropped() uint64 { return f.events.Dropped() }
