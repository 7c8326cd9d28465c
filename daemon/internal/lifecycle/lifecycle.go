// Package lifecycle decides the next step of a slot: from "nothing is there" to "a pod may have it" and back to "nothing is left". It is
// pure: Next looks at a slot, at the memory of it and at the observations, and names one step; After notes how the step ended.
package lifecycle

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
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
	// Describe asks EC2 for Step.ENI by its id. Found or not, the answer also goes into Observed.Interfaces.
	Describe
	// ReadInstance asks EC2 for the slot's instance.
	ReadInstance
	// ReadNode asks EC2 for the ENIs of the slot's instance, for a new plan.
	ReadNode
	// Store writes Entry(…) of the memory that After returns for success. That memory counts only if the write has succeeded. Without a
	// Node there is nothing to write, and Store has succeeded. The controller also stores each changed entry by itself; Store is for
	// entries that must be stored before the next call.
	Store
	// Create makes slots.Creation(Step.Slot, cluster, Memory.Attempt).
	Create
	// Attach attaches Step.ENI by slots.Joining.
	Attach
	// SetTermination sets DeleteOnTermination of Step.Attachment to the slot's option.
	SetTermination
	// SetGroups sets the groups of Step.ENI.
	SetGroups
	// SetSourceDestCheck sets Step.ENI's to the slot's option.
	SetSourceDestCheck
	// Tag gives Step.ENI slots.Tags.
	Tag
	// Detach detaches Step.Attachment.
	Detach
	ForceDetach
	// Delete deletes Step.ENI.
	Delete
	// Drop forgets the slot: nothing of it is left in EC2, or a person has abandoned it. The memory that After returns is worth keeping while
	// the process lives: a slot that comes back goes on with its Attempt.
	Drop
)

func (a Action) String() string {
	return [...]string{
		"Wait", "LookUp", "Describe", "ReadInstance", "ReadNode", "Store", "Create", "Attach", "SetTermination", "SetGroups", "SetSourceDestCheck", "Tag",
		"Detach", "ForceDetach", "Delete", "Drop",
	}[a]
}

// Mutates reports whether the action changes something in EC2.
func (a Action) Mutates() bool { return a >= Create && a <= Delete }

// looks reports whether the action asks EC2 for something.
func (a Action) looks() bool { return a >= LookUp && a <= ReadNode }

// Call is the name of EC2's action, "" for none.
func (a Action) Call() string {
	return [...]string{
		"", "DescribeNetworkInterfaces", "DescribeNetworkInterfaces", "DescribeInstances", "DescribeNetworkInterfaces", "", "CreateNetworkInterface",
		"AttachNetworkInterface", "ModifyNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute", "ModifyNetworkInterfaceAttribute", "CreateTags",
		"DetachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface", "",
	}[a]
}

// Node is Kubernetes' knowledge of a slot's node.
type Node struct {
	// Exists: the Node object exists and has the slot's instance in its providerID.
	Exists, Ready bool
	// Since is the time of the first sight by this controller, for the rule "no daemon ever reported".
	Since time.Time
	// Reported: a daemon has written a status at least once. Protocol is its status.protocol; 0 is an old daemon.
	Reported bool
	Protocol int
	// Lost: the slot's entry was in an ENINodeState that is no more (its UID has changed, or it is gone). An earlier report may be lost with it.
	// The entry is written anew.
	Lost bool
	// Released: the daemon has answered the present wish to release this ENI (see Answered).
	Released bool
	// Device is the phase of the ENI in status.devices: "", pending, ready or draining. Holders are pods, as namespace/name.
	Device  string
	Holders []string
}

// Observed is the present knowledge about a slot.
type Observed struct {
	// Cluster is the cluster's UID.
	Cluster string
	// Interfaces are the ENIs with the slot's tag, and Memory.ENI. LookedAt is when the last look by tag began (LookUp, or the list of all ENIs);
	// zero before the first under this leadership.
	Interfaces []vpc.Interface
	LookedAt   time.Time
	// Instance is nil before it was read; its State is "" where EC2 has said twice that it does not exist. InstanceAt is when it was read.
	Instance   *vpc.Instance
	InstanceAt time.Time
	Node       Node
	// Wanted: slots.Slots has the slot, or keeps its entry.
	Wanted bool
	// Abandoned: a person has told the controller to leave the deleted NodeENI's ENIs behind.
	Abandoned bool
	// Park: the NodeENI still exists, with this subnet and deleteOnTermination false; the ENI then outlives its instance.
	Park bool
	// ParkUnknown: nobody knows yet whether Park holds. The ENI is kept meanwhile.
	ParkUnknown bool
	// PlannedAt is when the look at the instance's ENIs began from which the slot's place was planned; zero without a plan. Refused is the plan's
	// Fault, External its ENI of somebody else for the slot, Holders its text; nil for none.
	PlannedAt time.Time
	Refused   *slots.Fault
	External  *vpc.Interface
	Holders   string
	// Adopt is an ENI of the public controller for this slot, Move a parked ENI that may come to this node; nil for none.
	Adopt, Move *vpc.Interface
	// ForceAfter is --force-detach-after; 0 is never.
	ForceAfter time.Duration
}

// Memory is the controller's memory of a slot. The fields of the first block are in spec.attachments and survive a restart (see Restore and Entry);
// the rest does not. Its zero value is a slot that nobody has begun.
type Memory struct {
	// Request is "" if the attempt has come to a known end.
	Attempt           int
	Request           string
	ENI, AttachmentID string
	Phase             Phase
	Reason, Message   string
	Found             bool

	// Failed is the action that failed last; it is not tried before RetryAt. Failures counts its failures in a row.
	Failed   Action
	RetryAt  time.Time
	Failures int
	// Denied is the action whose UnauthorizedOperation the last step has confirmed: its ENI is still there as before.
	Denied Action

	// why is how the slot stands since Failed failed, suspect a forbidden call that is not confirmed yet; nil for none. Nobody changes them, since
	// memories are copied.
	why     *plight
	suspect *suspect
	// own are writes since wroteAt; nil once the answers show them.
	own     *own
	wroteAt time.Time
	// settled is when a look by tag begins to prove that there is nothing. lookAfter: something is unclear; no act before a look begun later.
	settled, lookAfter, planAfter, instanceAfter time.Time
	// describedAt is the last answer about ENI; polls counts them in this phase.
	describedAt, nodeReadAt time.Time
	polls                   int
	// missingSince is when ENI was first not found, zero when it was seen since; instanceMissing is the same for the instance.
	createdAt, detachingSince, drainingSince, missingSince, instanceMissing, mismatch time.Time
	instanceGone, reported                                                            bool
	// gone is an ENI that no longer exists, whatever a late answer says.
	gone string
}

// Values of Memory.Request for an ENI that was not created for the slot: a parked one or one of the public controller is to get the slot's tags; it has them.
const (
	moving   = "move"
	adopting = "adopt"
	moved    = "moved"
)

// plight is how a slot stands after a failure.
type plight struct {
	phase           Phase
	reason, message string
}

// suspect is a call about an ENI that EC2 has forbidden. A policy that asks for tags forbids calls about things that are gone, too.
type suspect struct {
	do         Action
	attachment string
	plight     plight
}

// own are the controller's own writes, which late answers do not show yet.
type own struct {
	created    *vpc.Interface
	attachment *vpc.Attachment
	// terminationOf is the attachment whose flag was set.
	terminationOf   string
	termination     bool
	groups          []string
	sourceDestCheck *bool
	detached        string
	tagged          string
}

// Step is the next step of a slot.
type Step struct {
	Do Action
	// Slot is the slot that Next was asked about. ENI and Attachment are the action's subject.
	Slot            *slots.Slot
	ENI, Attachment string
	// Phase, Reason and Message go into the entry.
	Phase           Phase
	Reason, Message string
	// At is when to look again without news; zero is never.
	At time.Time

	note note
}

// note is a message from Next to After.
type note struct {
	attempt             int
	request             string
	adopt, found        bool // Store: ENI is the slot's from now on, "" for none
	reported, lost      bool
	detaching, draining bool
	attached            string
	shown               bool   // the answers are later than the own writes by overlay
	there               bool   // a list shows the ENI, later than the last answer that did not know it
	holders             string // Attach: see Observed
}

// Result is how a step ended. Its zero value is a success without an answer.
type Result struct {
	// Err is nil for success; *vpc.EC2Error from EC2. Another error of an EC2 action means: nothing was sent.
	Err error
	// Interface is the answer of Create and of Describe.
	Interface *vpc.Interface
	// Attachment is the answer of Attach.
	Attachment string
}

// ExternalFresh is how old the knowledge of an instance may be while somebody else's ENI satisfies a slot there. A look at the instance is two
// Describes. At rest these are the only calls beside the lists of the region's ENIs: one Describe for each 1,000 ENIs every 10 minutes.
const ExternalFresh = time.Hour

// Times of the rules.
const (
	overlay      = 30 * time.Second // own writes count more than an answer that is not later by this
	young        = time.Minute      // an ENI may not be found yet
	absentAfter  = 10 * time.Second // between two NotFound
	neverAfter   = 5 * time.Minute
	stuckAfter   = 15 * time.Minute
	foreignAfter = 5 * time.Minute
	instanceWait = time.Minute
)
