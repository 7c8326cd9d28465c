package lifecycle

import (
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// scene is a slot that is ready: attached, as wanted, and looked at a minute ago.
type scene struct {
	s slots.Slot
	o Observed
	m Memory
}

func ready() *scene {
	s := slot()
	at := t0.Add(-time.Minute)
	eni := vpc.Interface{ID: "eni-1", SubnetID: "subnet-1", VPCID: "vpc-1", Status: "in-use", Groups: []string{"sg-1"}, SourceDestCheck: true,
		Tags:       slots.Tags(s, "c"),
		Attachment: &vpc.Attachment{ID: "at-1", Instance: "i-1", DeviceIndex: 2, NetworkCard: 3, Status: "attached", DeleteOnTermination: true}}
	return &scene{s: s,
		o: Observed{Cluster: "c", Interfaces: []vpc.Interface{eni}, LookedAt: at, Instance: &vpc.Instance{ID: "i-1", State: "running"}, InstanceAt: at,
			PlannedAt: at, Wanted: true,
			Node: Node{Exists: true, Ready: true, Since: at, Reported: true, Protocol: 1}},
		m: Memory{Attempt: 1, Request: slots.Request(s, "c"), ENI: "eni-1", AttachmentID: "at-1", Phase: Attached},
	}
}

func (c *scene) eni() *vpc.Interface { return &c.o.Interfaces[0] }

// none: the slot has no ENI, and none was asked for.
func (c *scene) none() { c.o.Interfaces, c.m = nil, Memory{} }

// free: the ENI is attached to nothing.
func (c *scene) free() { c.eni().Attachment, c.eni().Status, c.m.AttachmentID = nil, "available", "" }

// leaving: the slot is not wanted, and the daemon knows it.
func (c *scene) leaving() { c.o.Wanted, c.m.drainingSince = false, t0.Add(-time.Hour) }

func minute(n int) time.Time { return t0.Add(time.Duration(n) * time.Minute) }

var nextCases = []struct {
	name   string
	change func(*scene)
	do     Action
	phase  Phase
	reason string
	at     time.Time
	words  string
}{
	// To an attached ENI.
	{name: "all is well", phase: Attached, change: func(*scene) {}},
	{name: "pods may have it", phase: Ready, change: func(c *scene) { c.o.Node.Device = "ready" }},
	{name: "first a look", do: LookUp, phase: Attached, change: func(c *scene) { c.o.LookedAt = time.Time{} }},
	{name: "a new slot is stored first", do: Store, phase: Creating, change: func(c *scene) { c.none() }},
	{name: "other parameters are stored first", do: Store, phase: Creating,
		change: func(c *scene) { c.o.Interfaces, c.m = nil, Memory{Attempt: 1, Request: "old"} }},
	{name: "then created", do: Create, phase: Creating, change: func(c *scene) { c.o.Interfaces, c.m.ENI = nil, "" }},
	{name: "not before the instance is known", do: ReadInstance, phase: Wanted, change: func(c *scene) { c.none(); c.o.Instance = nil }},
	{name: "not before the node is known", do: ReadNode, phase: Wanted, change: func(c *scene) { c.none(); c.o.PlannedAt = time.Time{} }},
	{name: "not in a full instance", phase: Blocked, reason: slots.NoFreeInterface, words: "full", at: t0, do: ReadNode, change: func(c *scene) {
		c.none()
		c.o.Refused = &slots.Fault{Reason: slots.NoFreeInterface, Message: "full"}
	}},
	{name: "a full instance is not asked all the time", phase: Blocked, reason: slots.NoFreeInterface, at: minute(1), change: func(c *scene) {
		c.none()
		c.o.PlannedAt = t0
		c.o.Refused = &slots.Fault{Reason: slots.NoFreeInterface, Message: "full"}
	}},
	{name: "not in a stopped instance", phase: Wanted, reason: InstanceNotRunning, words: "i-1 of node n is stopped", at: t0.Add(time.Minute),
		change: func(c *scene) {
			c.none()
			c.o.Instance.State, c.o.InstanceAt = "stopped", t0
		}},
	{name: "a stopped instance is read again", do: ReadInstance, phase: Wanted, reason: InstanceNotRunning, at: t0, change: func(c *scene) {
		c.none()
		c.o.Instance.State = "pending"
	}},
	{name: "not in an ended instance", phase: Wanted, reason: InstanceGone, words: "i-1", change: func(c *scene) { c.none(); c.o.Instance.State = "terminated" }},
	{name: "not in an unknown instance", phase: Wanted, reason: InstanceGone, change: func(c *scene) { c.none(); c.o.Instance.State = "" }},
	{name: "an external ENI is enough", phase: External, at: minute(59), change: func(c *scene) { c.none(); c.o.External = &vpc.Interface{ID: "eni-x"} }},
	{name: "an ENI of the public controller gets the tags", do: Tag, phase: Creating, change: func(c *scene) {
		delete(c.eni().Tags, slots.TagSlot)
		c.m.Request = adopting
	}},
	{name: "it has the tags", phase: Attached, change: func(c *scene) { c.m.Request = adopting }},
	{name: "an ENI of the public controller that has ended is not stored", do: Store, phase: Creating, change: func(c *scene) {
		c.none()
		c.m.gone, c.o.Adopt, c.o.Move = "eni-x", &vpc.Interface{ID: "eni-x"}, &vpc.Interface{ID: "eni-y"}
	}, words: "eni-y"},
	{name: "an ENI of the public controller is stored first", do: Store, phase: Creating, words: "eni-x",
		change: func(c *scene) { c.none(); c.o.Adopt = &vpc.Interface{ID: "eni-x"} }},
	{name: "a parked ENI is stored first", do: Store, phase: Creating, words: "eni-x",
		change: func(c *scene) { c.none(); c.o.Move = &vpc.Interface{ID: "eni-x"} }},
	{name: "no parked ENI beside an open attempt", do: Create, phase: Creating, change: func(c *scene) {
		c.o.Interfaces, c.m.ENI, c.o.Move = nil, "", &vpc.Interface{ID: "eni-x"}
	}},
	{name: "then it gets the tags", do: Tag, phase: Creating, change: func(c *scene) { c.free(); c.eni().Tags[slots.TagSlot], c.m.Request = "other", moving }},
	{name: "the tag of another slot: look again", phase: Attached, at: t0.Add(-55 * time.Second), do: Describe, change: func(c *scene) {
		c.eni().Tags[slots.TagSlot], c.m.settled = "other", t0.Add(time.Second)
	}},
	{name: "it is another slot's", do: Store, phase: Wanted, change: func(c *scene) { c.eni().Tags[slots.TagSlot] = "other" }},
	{name: "found by its tag", do: Store, phase: Attaching, change: func(c *scene) { c.m = Memory{} }},
	{name: "found, and free", do: Store, phase: Created, change: func(c *scene) { c.free(); c.m = Memory{} }},
	{name: "attach", do: Attach, phase: Attaching, change: func(c *scene) { c.free() }},
	{name: "attach only where there is room", do: ReadNode, at: t0, phase: Blocked, reason: slots.NoFreeInterface, change: func(c *scene) {
		c.free()
		c.o.Refused = &slots.Fault{Reason: slots.NoFreeInterface, Message: "full"}
	}},
	{name: "attach by a new plan", do: ReadNode, at: t0.Add(-time.Minute), phase: Created, change: func(c *scene) { c.free(); c.m.planAfter = t0 }},
	{name: "attach by a new plan, asked for each 15 s", phase: Created, at: t0.Add(15 * time.Second), change: func(c *scene) {
		c.free()
		c.m.planAfter, c.m.nodeReadAt = t0, t0
	}},
	{name: "attach after a new look at the instance", do: ReadInstance, phase: Created, change: func(c *scene) { c.free(); c.m.instanceAfter = t0 }},
	{name: "termination", do: SetTermination, phase: Attaching, change: func(c *scene) { c.eni().Attachment.DeleteOnTermination = false }},
	{name: "no termination", do: SetTermination, phase: Attaching, change: func(c *scene) { c.s.Options.DeleteOnTermination = false }},
	{name: "termination at once", do: SetTermination, phase: Attaching,
		change: func(c *scene) { c.eni().Attachment = &vpc.Attachment{ID: "at-1", Instance: "i-1", Status: "attaching"} }},
	{name: "source-dest-check", do: SetSourceDestCheck, phase: Attaching, change: func(c *scene) { c.s.Options.SourceDestCheck = new(false) }},
	{name: "source-dest-check is as wanted", phase: Attached, change: func(c *scene) { c.s.Options.SourceDestCheck = new(true) }},
	{name: "nobody asks for source-dest-check", phase: Attached, change: func(c *scene) { c.eni().SourceDestCheck = false }},
	{name: "groups", do: SetGroups, phase: Attaching, change: func(c *scene) { c.s.Groups = []string{"sg-1", "sg-2"} }},
	{name: "attaching", do: Describe, at: t0.Add(-time.Hour), phase: Attaching,
		change: func(c *scene) { c.eni().Attachment.Status, c.m.wroteAt = "attaching", t0.Add(-time.Hour-time.Second/2) }},
	{name: "attaching, and asked", at: t0.Add(time.Second), phase: Attaching,
		change: func(c *scene) { c.eni().Attachment.Status, c.m.describedAt, c.m.polls = "attaching", t0, 1 }},
	{name: "detached by a person", do: Describe, at: t0.Add(-time.Minute + time.Second/2), phase: Detaching, change: func(c *scene) {
		c.eni().Attachment.Status, c.m.describedAt = "detaching", t0.Add(-time.Minute)
	}},
	{name: "wanted again, and stuck", phase: Detaching, reason: DetachStuck, at: minute(1), words: "end the program that has the device", change: func(c *scene) {
		c.eni().Attachment.Status, c.m.describedAt, c.m.polls, c.m.detachingSince = "detaching", t0, 20, minute(-15)
	}},
	{name: "wanted again, and its Detach may be under way", phase: Detaching, at: t0.Add(5 * time.Second), change: func(c *scene) {
		c.m.Phase, c.m.settled, c.o.LookedAt = Detaching, t0.Add(time.Minute), t0
	}},
	{name: "wanted again, and an earlier leader may have begun to detach it", phase: Detaching, at: t0.Add(5 * time.Second), change: func(c *scene) {
		c.m.Phase, c.m.settled, c.o.LookedAt = Draining, t0.Add(overlay), t0
	}},
	{name: "wanted again before it was detached", phase: Attached, change: func(c *scene) {
		c.m.Phase, c.m.settled, c.o.LookedAt = Draining, t0, t0
	}},
	{name: "wanted again, and its Detach has not come", phase: Attached, change: func(c *scene) {
		c.m.Phase, c.m.settled, c.o.LookedAt = Detaching, t0, t0
	}},
	{name: "attached elsewhere", phase: Blocked, reason: AttachedElsewhere, words: "eni-1 of NodeENI e is attached to i-2, not to i-1", at: minute(4),
		change: func(c *scene) {
			c.eni().Attachment.Instance = "i-2"
		}},
	{name: "attached elsewhere, again", do: Describe, phase: Blocked, reason: AttachedElsewhere, at: t0, change: func(c *scene) {
		c.eni().Attachment.Instance, c.o.LookedAt = "i-2", minute(-5)
	}},
	{name: "missing", do: Describe, phase: Attached, change: func(c *scene) { c.o.Interfaces = nil }},
	{name: "unclear: by id", do: Describe, phase: Attached, change: func(c *scene) { c.m.lookAfter = t0 }},
	{name: "unclear: by tag", do: LookUp, phase: Creating, change: func(c *scene) { c.none(); c.m.lookAfter, c.m.Phase = t0, Creating }},
	{name: "clear again", phase: Attached, change: func(c *scene) { c.m.lookAfter, c.m.describedAt = t0.Add(-time.Second), t0 }},
	{name: "a free twin goes", do: Delete, phase: Attached, change: func(c *scene) {
		c.o.Interfaces = append(c.o.Interfaces, vpc.Interface{ID: "eni-0", Status: "available", Tags: c.eni().Tags})
	}},
	{name: "a pending twin goes", do: Delete, phase: Attached, words: "eni-0", change: func(c *scene) {
		c.o.Interfaces = append(c.o.Interfaces, vpc.Interface{ID: "eni-0", Status: "pending", Tags: c.eni().Tags})
	}},
	{name: "a twin whose attachment EC2 does not show yet stays", phase: Attached, change: func(c *scene) {
		c.o.Interfaces = append(c.o.Interfaces, vpc.Interface{ID: "eni-0", Status: "in-use", Tags: c.eni().Tags})
	}},
	{name: "an attached twin takes the place of a free ENI", do: Store, phase: Wanted, change: func(c *scene) {
		twin := *c.eni()
		twin.ID = "eni-9"
		c.free()
		c.o.Interfaces = append(c.o.Interfaces, twin)
	}},
	{name: "a twin that is attached elsewhere does not", do: Attach, phase: Attaching, words: "eni-1", change: func(c *scene) {
		twin := *c.eni()
		twin.ID, twin.Attachment = "eni-0", &vpc.Attachment{ID: "at-0", Instance: "i-2", Status: "attached"}
		c.free()
		c.o.Interfaces = append(c.o.Interfaces, twin)
	}},
	{name: "an attached twin stays", phase: Attached, change: func(c *scene) {
		twin := *c.eni()
		twin.ID = "eni-2"
		c.o.Interfaces = append(c.o.Interfaces, twin)
	}},
	{name: "of two free ones the known one stays", do: Delete, phase: Attached, words: "eni-0", change: func(c *scene) {
		c.free()
		c.o.Interfaces = append(c.o.Interfaces, vpc.Interface{ID: "eni-0", Status: "available", Tags: c.eni().Tags})
	}},
	{name: "other parameters: the ENI may still appear", phase: Creating, at: t0.Add(5 * time.Second), change: func(c *scene) {
		c.o.Interfaces, c.m.ENI, c.m.mismatch, c.o.LookedAt = nil, "", t0, t0
	}},
	{name: "other parameters: look", do: LookUp, phase: Creating, at: t0, change: func(c *scene) {
		c.o.Interfaces, c.m.ENI, c.m.mismatch, c.o.LookedAt = nil, "", t0.Add(-30*time.Second), t0.Add(-time.Second)
	}},
	{name: "other parameters: the next attempt", do: Store, phase: Creating, change: func(c *scene) {
		c.o.Interfaces, c.m.ENI, c.m.mismatch, c.o.LookedAt = nil, "", t0.Add(-30*time.Second), t0
	}},
	{name: "not yet again", phase: Blocked, reason: SubnetFull, words: "full", at: minute(1), change: func(c *scene) {
		c.o.Interfaces, c.m.ENI, c.m.Failed, c.m.RetryAt = nil, "", Create, minute(1)
		c.m.Phase, c.m.Reason, c.m.Message = Blocked, SubnetFull, "full"
	}},
	{name: "again", do: Create, phase: Creating, change: func(c *scene) { c.o.Interfaces, c.m.ENI, c.m.Failed, c.m.RetryAt = nil, "", Create, t0 }},
	{name: "all is well, though another step failed", phase: Attached, change: func(c *scene) {
		c.m.Failed, c.m.RetryAt, c.m.why = Delete, minute(1), &plight{Blocked, Forbidden, "denied"}
	}},
	{name: "a look shows the failure", do: ReadNode, phase: Blocked, reason: slots.NoFreeInterface, words: "full", change: func(c *scene) {
		c.free()
		c.o.PlannedAt, c.m.Failed, c.m.RetryAt, c.m.why = time.Time{}, Attach, minute(1), &plight{Blocked, slots.NoFreeInterface, "full"}
	}},
	{name: "a look with its own reason shows that", do: ReadInstance, phase: Created, reason: InstanceNotRunning, words: "stopped", change: func(c *scene) {
		c.free()
		c.o.Instance.State = "stopped"
		c.m.Failed, c.m.RetryAt, c.m.why = Attach, minute(1), &plight{Blocked, slots.NoFreeInterface, "full"}
	}},
	{name: "another step need not wait", do: Create, phase: Creating,
		change: func(c *scene) { c.o.Interfaces, c.m.ENI, c.m.Failed, c.m.RetryAt = nil, "", Attach, minute(1) }},
}

func TestNext(t *testing.T) {
	for _, tt := range nextCases {
		t.Run(tt.name, func(t *testing.T) {
			c := ready()
			tt.change(c)
			checkStep(t, Next(&c.s, c.o, c.m, t0), tt.do, tt.phase, tt.reason, tt.at, tt.words)
		})
	}
}

func checkStep(t *testing.T, st Step, do Action, phase Phase, reason string, at time.Time, words string) {
	t.Helper()
	if st.Do != do || st.Phase != phase || st.Reason != reason {
		t.Errorf("step %v %s %s (%s), want %v %s %s", st.Do, st.Phase, st.Reason, st.Message, do, phase, reason)
	}
	if do == Wait && !st.At.Equal(at) {
		t.Errorf("at %v, want %v", st.At.Sub(t0), at.Sub(t0))
	}
	if !strings.Contains(st.Message+st.ENI, words) {
		t.Errorf("message %q lacks %q", st.Message, words)
	}
	if (st.Reason == "") != (st.Message == "") {
		t.Errorf("reason %q with message %q", st.Reason, st.Message)
	}
}

var releaseCases = []struct {
	name   string
	change func(*scene)
	do     Action
	phase  Phase
	reason string
	at     time.Time
	words  string
}{
	{name: "the daemon is told first", do: Store, phase: Draining, change: func(c *scene) { c.m.drainingSince = time.Time{}; c.o.Node.Released = true }},
	{name: "it drains", phase: Draining, change: func(*scene) {}},
	{name: "pods have it", phase: Draining, reason: DeviceInUse, words: "in use by a/b, a/c",
		change: func(c *scene) { c.o.Node.Holders = []string{"a/b", "a/c"} }},
	{name: "five pods have it", phase: Draining, reason: DeviceInUse, words: "in use by a, b, c, d, e: it",
		change: func(c *scene) { c.o.Node.Holders = []string{"a", "b", "c", "d", "e"} }},
	{name: "seven pods have it", phase: Draining, reason: DeviceInUse, words: "in use by a, b, c, d, e and 2 more: it",
		change: func(c *scene) { c.o.Node.Holders = []string{"a", "b", "c", "d", "e", "f", "g"} }},
	{name: "pods have it, whatever the daemon has said", phase: Draining, reason: DeviceInUse, change: func(c *scene) {
		c.o.Node.Holders, c.o.Node.Released = []string{"a/b"}, true
	}},
	{name: "released", do: Detach, phase: Detaching, words: "eni-1", change: func(c *scene) { c.o.Node.Released = true }},
	{name: "released, and then the node was lost", do: Detach, phase: Detaching, change: func(c *scene) { c.o.Node.Released, c.o.Node.Ready = true, false }},
	{name: "the instance is read first", do: ReadInstance, phase: Draining, change: func(c *scene) { c.o.Node.Released, c.o.Instance = true, nil }},
	{name: "the node is not Ready", phase: Draining, reason: WaitingForNode, words: "n is not Ready", change: func(c *scene) { c.o.Node.Ready = false }},
	{name: "there is no node", phase: Draining, reason: WaitingForNode, at: t0.Add(time.Minute), words: "does not exist", change: func(c *scene) {
		c.o.Node.Exists, c.o.InstanceAt = false, t0
	}},
	{name: "there is no node, and its instance may have ended", do: ReadInstance, phase: Draining, reason: WaitingForNode, at: t0, words: "does not exist",
		change: func(c *scene) { c.o.Node.Exists, c.o.InstanceAt = false, t0.Add(-time.Minute) }},
	{name: "an old daemon", phase: Draining, reason: DaemonTooOld, words: "--attachments-from=controller", change: func(c *scene) { c.o.Node.Protocol = 0 }},
	{name: "no daemon yet", phase: Draining, reason: WaitingForNode, at: t0.Add(time.Second), words: "no daemon has reported", change: func(c *scene) {
		c.o.Node = Node{Exists: true, Ready: true, Since: t0.Add(time.Second - 5*time.Minute)}
	}},
	{name: "no daemon, and the node is not Ready", phase: Draining, reason: WaitingForNode, at: t0.Add(time.Second), words: "not Ready, and no daemon",
		change: func(c *scene) {
			c.o.Node = Node{Exists: true, Since: t0.Add(time.Second - 5*time.Minute)}
		}},
	{name: "no daemon has ever reported", do: Detach, phase: Detaching,
		change: func(c *scene) { c.o.Node = Node{Exists: true, Since: t0.Add(-5 * time.Minute)} }},
	{name: "it counts from the wish", phase: Draining, reason: WaitingForNode, at: t0.Add(time.Minute), change: func(c *scene) {
		c.o.Node, c.m.drainingSince = Node{Exists: true, Ready: true, Since: t0.Add(-time.Hour)}, t0.Add(-4*time.Minute)
	}},
	{name: "a found ENI is never taken so", phase: Draining, reason: WaitingForNode, words: "was found", change: func(c *scene) {
		c.o.Node, c.m.Found = Node{Exists: true, Ready: true}, true
	}},
	{name: "nor one with a lost report", phase: Draining, reason: WaitingForNode, words: "was found", change: func(c *scene) {
		c.o.Node, c.m.reported = Node{Exists: true, Ready: true}, true
	}},
	{name: "nor one with a lost entry, which is written anew", do: Store, phase: Draining, change: func(c *scene) {
		c.o.Node = Node{Exists: true, Ready: true, Lost: true}
	}},
	{name: "stopped", phase: Draining, reason: InstanceNotRunning, at: t0.Add(time.Minute), words: "is stopped", change: func(c *scene) {
		c.o.Node.Released, c.o.Instance.State, c.o.InstanceAt = true, "stopped", t0
	}},
	{name: "stopped, and asked again", do: ReadInstance, phase: Draining, reason: InstanceNotRunning, change: func(c *scene) { c.o.Instance.State = "stopping" }},
	{name: "shutting down: EC2 does it", do: Describe, phase: Detaching, reason: InstanceGone, change: func(c *scene) {
		c.o.Node.Released, c.o.Instance.State = true, "shutting-down"
	}},
	{name: "terminated: asked each minute at last", phase: Detaching, reason: InstanceGone, at: t0.Add(time.Minute), change: func(c *scene) {
		c.o.Instance.State, c.m.describedAt, c.m.polls = "terminated", t0, 20
	}},
	{name: "an unknown instance", do: Describe, phase: Detaching, reason: InstanceGone, change: func(c *scene) { c.o.Instance, c.m.instanceGone = nil, true }},
	{name: "detaching", phase: Detaching, at: t0.Add(time.Second / 2), change: func(c *scene) { c.eni().Attachment.Status, c.m.describedAt = "detaching", t0 }},
	{name: "detaching: asked each 15 s at last", phase: Detaching, at: t0.Add(15 * time.Second), change: func(c *scene) {
		c.eni().Attachment.Status, c.m.describedAt, c.m.polls, c.m.detachingSince = "detaching", t0, 20, t0.Add(time.Second-15*time.Minute)
	}},
	{name: "stuck", phase: Detaching, reason: DetachStuck, at: t0.Add(time.Minute), words: "--force-detach-after is 0s", change: func(c *scene) {
		c.eni().Attachment.Status, c.m.describedAt, c.m.polls, c.m.detachingSince = "detaching", t0, 20, t0.Add(-15*time.Minute)
		c.o.Node.Released = true
	}},
	{name: "force", do: ForceDetach, phase: Detaching, reason: DetachStuck, change: func(c *scene) {
		c.eni().Attachment.Status, c.m.detachingSince = "detaching", t0.Add(-20*time.Minute)
		c.o.Node.Released, c.o.ForceAfter = true, 20*time.Minute
	}},
	{name: "no force too early", do: Describe, phase: Detaching, reason: DetachStuck, change: func(c *scene) {
		c.eni().Attachment.Status, c.m.detachingSince = "detaching", t0.Add(time.Second-20*time.Minute)
		c.o.Node.Released, c.o.ForceAfter = true, 20*time.Minute
	}},
	{name: "no force without released", do: Describe, phase: Detaching, reason: DetachStuck, change: func(c *scene) {
		c.eni().Attachment.Status, c.m.detachingSince, c.o.ForceAfter = "detaching", t0.Add(-20*time.Minute), 20*time.Minute
	}},
	{name: "no force against pods", do: Describe, phase: Detaching, reason: DetachStuck, change: func(c *scene) {
		c.eni().Attachment.Status, c.m.detachingSince, c.o.ForceAfter = "detaching", t0.Add(-20*time.Minute), 20*time.Minute
		c.o.Node.Released, c.o.Node.Holders = true, []string{"a/b"}
	}},
	{name: "attached elsewhere: hands off", phase: Blocked, reason: AttachedElsewhere, at: t0.Add(4 * time.Minute), change: func(c *scene) {
		c.eni().Attachment.Instance, c.o.Node.Released = "i-2", true
	}},
	{name: "free", do: Delete, phase: Deleting, words: "eni-1", change: func(c *scene) { c.free() }},
	{name: "a detached attachment is none", do: Delete, phase: Deleting, change: func(c *scene) { c.eni().Attachment.Status = "detached" }},
	{name: "parked", phase: Parked, change: func(c *scene) { c.free(); c.o.Park, c.o.Instance.State = true, "terminated" }},
	{name: "parked, once the instance is known", do: ReadInstance, phase: Attached, change: func(c *scene) { c.free(); c.o.Park, c.o.Instance = true, nil }},
	{name: "parked still, while the instance is read again", do: ReadInstance, phase: Parked, change: func(c *scene) {
		c.free()
		c.o.Park, c.o.Instance, c.m.Phase = true, nil, Parked
	}},
	{name: "stuck still, while the instance is read again", do: ReadInstance, phase: Detaching, change: func(c *scene) {
		c.eni().Attachment.Status, c.o.Instance, c.m.Phase = "detaching", nil, Detaching
	}},
	{name: "not parked while the instance runs", do: Delete, phase: Deleting, change: func(c *scene) { c.free(); c.o.Park = true }},
	{name: "nobody knows whether it parks", phase: Detaching, at: t0.Add(time.Minute), change: func(c *scene) {
		c.free()
		c.o.ParkUnknown, c.o.Instance.State, c.m.Phase = true, "terminated", Detaching
	}},
	{name: "an ENI of the public controller, not taken yet", do: Store, phase: Wanted, change: func(c *scene) {
		delete(c.eni().Tags, slots.TagSlot)
		c.m.Request = adopting
	}},
	{name: "an ENI of the public controller, maybe taken", phase: Attached, at: t0.Add(5 * time.Second), change: func(c *scene) {
		delete(c.eni().Tags, slots.TagSlot)
		c.m.Request, c.m.settled, c.o.LookedAt = adopting, t0.Add(time.Minute), t0
	}},
	{name: "missing", do: Describe, phase: Attached, change: func(c *scene) { c.o.Interfaces = nil }},
	{name: "nothing, and an answer may be lost", phase: Deleting, at: t0.Add(4 * time.Second), change: func(c *scene) {
		c.o.Interfaces, c.m.ENI, c.m.settled, c.o.LookedAt = nil, "", t0.Add(4*time.Second), t0
	}},
	{name: "nothing for sure", do: Drop, phase: Attached, change: func(c *scene) { c.o.Interfaces, c.m.ENI, c.m.settled = nil, "", t0.Add(-time.Minute) }},
	{name: "nothing was asked for", do: Drop, change: func(c *scene) { c.none(); c.m.settled = t0.Add(time.Hour) }},
	{name: "deleted, whatever a late answer says", do: Drop, change: func(c *scene) { c.m = Memory{gone: "eni-1"} }},
	{name: "abandoned", do: Drop, phase: Attached, reason: Abandoned, words: "eni-1", change: func(c *scene) { c.o.Abandoned, c.o.LookedAt = true, time.Time{} }},
}

func TestNextReleases(t *testing.T) {
	for _, tt := range releaseCases {
		t.Run(tt.name, func(t *testing.T) {
			c := ready()
			c.leaving()
			tt.change(c)
			checkStep(t, Next(&c.s, c.o, c.m, t0), tt.do, tt.phase, tt.reason, tt.at, tt.words)
		})
	}
	c := ready()
	c.o.Abandoned = true
	checkStep(t, Next(&c.s, c.o, c.m, t0), Wait, Attached, "", time.Time{}, "")
}
