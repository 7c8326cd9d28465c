// Package reason has every Reason that the daemon gives: of its Problems, of its Events, of the conditions of an ENINodeState, and of an
// API server that cannot be followed. Code names a Reason by its constant; docs/troubleshooting.md is made of the table.
package reason

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Kind says where a Reason is seen. One Reason may have several.
type Kind int

// The kinds of Reasons.
const (
	// Problem: in `multi-enid status`, in status.problems of the ENINodeState, in an Event, and as a label of multi_eni_problems.
	Problem Kind = 1 << iota
	// Event: in an Event only.
	Event
	// Condition: in a condition of the ENINodeState.
	Condition
	// API: why the API server is not followed, in `multi-enid status` and as a label of multi_eni_api_fault.
	API
)

// Entry explains one Reason.
type Entry struct {
	Reason nodestate.Reason
	Kind   Kind
	// Of is the condition that has the Reason; "" where Kind lacks Condition.
	Of string
	// About is the kind of the object that the Event of Kind Event is about.
	About string
	// Meaning explains the state to the reader. Remedy is the way out, "" if there is none. Both are Markdown.
	Meaning, Remedy string
	// Seen are messages that cannot be read off the code, with … for each value.
	Seen []string
}

// Group is a part of the table, for readers.
type Group struct {
	Title, Intro string
	Entries      []Entry
}

// Groups returns the table, in the order of the documents.
func Groups() []Group {
	return []Group{declared, fields, links, addresses, drivers, config, plugin, offered, records, sources, nodeenis, api, events, states}
}

// Delay returns for how long a Problem must last before its Event is sent. It is 0 except for states that each new NodeENI passes through.
func Delay(r nodestate.Reason) time.Duration {
	if r == NotAttached {
		return attachTime
	}
	return 0
}

// attachTime is how long a controller may take to attach an ENI before anybody is told. EC2 takes some seconds.
const attachTime = time.Minute

// Reasons of conditions, which pkg/apis spells for its users.
const (
	AllReady        nodestate.Reason = v1alpha1.ReasonAllReady
	NoDevices       nodestate.Reason = v1alpha1.ReasonNoDevices
	DevicesPending  nodestate.Reason = v1alpha1.ReasonDevicesPending
	DevicesDraining nodestate.Reason = v1alpha1.ReasonDevicesDraining
	ConfigWritten   nodestate.Reason = v1alpha1.ReasonConfigWritten
	ConfigOutdated  nodestate.Reason = v1alpha1.ReasonConfigOutdated
)
