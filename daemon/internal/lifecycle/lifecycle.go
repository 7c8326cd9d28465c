// Package lifecycle decides the next step of a slot: from "nothing is there" to "a pod may have it" and back to "nothing is left". It is
// pure: Next looks at a slot, at the memory of it and at the observations, and names one step; After notes how the step ended.
package lifecycle

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Phase is where a slot is on its way.
type Phase string

// The phases, as spec.attachments[].phase shows them.
const (
	Wanted    Phase = "Wanted"
	Creating  Phase = "Creating"
	Created   Phase = "Created"
	Attaching Phase = "Attaching"
	Attached  Phase = "Attached"
	Ready     Phase = "Ready"
	Draining  Phase = "Draining"
	Released  Phase = "Released"
	Detaching Phase = "Detaching"
	Deleting  Phase = "Deleting"
	Parked    Phase = "Parked"
	Blocked   Phase = "Blocked"
	External  Phase = "External"
)

// Action is one effect, or one look.
type Action int

// The actions. Wait is the zero value.
const (
	// Wait does nothing until Step.At, or until an observation changes.
	Wait Action = iota
	// LookUp asks EC2 for the ENIs with the slot's tag.
	LookUp
	// Describe asks EC2 for Memory.ENI by its id.
	Describe
	// ReadInstance asks EC2 for the slot's instance.
	ReadInstance
	// Store writes the entry to spec.attachments, and does nothing else. The controller also stores each changed entry by itself; Store is
	// for entries that must be stored before the next call.
	Store
	Create
	Attach
	SetTermination
	SetGroups
	SetOptions
	Tag
	Detach
	ForceDetach
	Delete
	// Drop forgets the slot: nothing of it is left in EC2.
	Drop
)

// Node is what Kubernetes says about a slot's node.
type Node struct {
	// Exists: the Node object exists and has the slot's instance in its providerID.
	Exists, Ready bool
	// StateSince is the time of the ENINodeState's or Node's first sight by this controller; for the rule "no daemon ever reported".
	Since time.Time
	// Reported: a daemon has written a status at least once. Protocol is its status.protocol; 0 is an old daemon.
	Reported bool
	Protocol int
	// Released: status.released has this slot with this ENI.
	Released bool
	// Device is the phase of the ENI in status.devices: "", pending, ready or draining. Holders are pods, as namespace/name.
	Device  string
	Holders []string
}

// Observed is the present knowledge about a slot. Slices are nil where nobody has looked.
type Observed struct {
	// Interfaces are the ENIs with the slot's tag, and Memory.ENI; nil before the first look. LookedAt is the time of that look, zero before.
	Interfaces []vpc.Interface
	LookedAt   time.Time
	// Instance is nil before it was read; its State is "" where EC2 has said twice that it does not exist.
	Instance *vpc.Instance
	Node     Node
	// External is the ENI that satisfies the slot without being ours; nil for none.
	External *vpc.Interface
	// Wanted: the NodeENI exists, selects the node, and has the subnet.
	Wanted bool
	// ForceAfter is --force-detach-after; 0 is never.
	ForceAfter time.Duration
}

// Memory is the controller's memory of a slot. Slot, Attempt, Request, ENI, AttachmentID, Phase, Reason, Message and Found are in
// spec.attachments and survive a restart; the rest does not.
type Memory struct {
	Attempt           int
	Request           string
	ENI, AttachmentID string
	Phase             Phase
	Reason, Message   string
	Found             bool

	// RetryAt is when the last failed action may be tried again; Failures counts its failures in a row.
	RetryAt  time.Time
	Failures int
	// CreatedAt is when Create answered; DetachingSince when Detach did; MissingSince when ENI was first not found, zero when it was seen since.
	CreatedAt, DetachingSince, MissingSince time.Time
}

// Step is the next step of a slot.
type Step struct {
	Do Action
	// Phase, Reason and Message go into the entry.
	Phase           Phase
	Reason, Message string
	// At is when to look again without news; zero is never.
	At time.Time
}
