package lifecycle

import (
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
)

// join creates or attaches, as far as nothing speaks against it.
func (d *decider) join() Step {
	if d.eni == nil {
		if st, ok := d.other(); ok {
			return st
		}
	}
	phase := Wanted
	if d.eni != nil {
		phase = Created
	}
	if st, ok := d.instance(phase); !ok {
		return st
	}
	switch {
	case d.o.Refused != nil:
		return d.readNodeBy(backoff(time.Minute, 10*time.Minute, d.m.polls), Step{Phase: Blocked, Reason: d.o.Refused.Reason, Message: d.o.Refused.Message})
	case d.o.PlannedAt.IsZero() || d.o.PlannedAt.Before(d.m.planAfter):
		return d.readNodeBy(0, Step{Phase: phase})
	case d.eni != nil && d.m.Request == moving:
		return Step{Do: Tag, ENI: d.eni.ID, Phase: Creating}
	case d.eni != nil:
		return Step{Do: Attach, ENI: d.eni.ID, Phase: Attaching}
	case d.o.Move != nil && d.m.Request == "":
		return Step{Do: Store, ENI: d.o.Move.ID, Phase: Creating, note: note{adopt: true, attempt: d.m.Attempt, request: moving}}
	}
	return d.create()
}

// other: the slot has an ENI that this controller has not made.
func (d *decider) other() (Step, bool) {
	switch {
	case d.o.Adopt != nil && d.o.Adopt.ID != d.m.gone:
		st := Step{Do: Store, ENI: d.o.Adopt.ID, Phase: Creating, note: note{adopt: true, attempt: d.m.Attempt, request: adopting}}
		if a := d.o.Adopt.Attachment; a != nil {
			st.note.attached, st.note.found = a.ID, true
		}
		return st, true
	case d.o.External != nil:
		return d.readNodeBy(ExternalFresh, Step{Phase: External}), true
	}
	return Step{}, false
}

// readNodeBy looks at the instance's ENIs again when the plan is this old, but not more often than each 15 seconds.
func (d *decider) readNodeBy(age time.Duration, st Step) Step {
	st.At = d.o.PlannedAt.Add(age)
	if t := d.m.nodeReadAt.Add(15 * time.Second); !d.m.nodeReadAt.IsZero() && t.After(st.At) {
		st.At = t
	}
	if !d.now.Before(st.At) {
		st.Do = ReadNode
	}
	return st
}

// create stores the parameters, then creates.
func (d *decider) create() Step {
	request := slots.Request(*d.s, d.o.Cluster)
	st := Step{Do: Store, Phase: Creating, note: note{attempt: d.m.Attempt, request: request}}
	switch {
	case !d.m.mismatch.IsZero() && d.o.LookedAt.Before(d.m.mismatch.Add(overlay)):
		// The ENI of the other parameters may still appear.
		return d.lookUpBy(d.m.mismatch.Add(overlay), Creating)
	case !d.m.mismatch.IsZero() || d.m.Request == "":
		st.note.attempt++
		return st
	case d.m.Request != request:
		return st
	}
	return Step{Do: Create, Phase: Creating}
}

// lookUpBy looks by tag now and then, for the last time at t.
func (d *decider) lookUpBy(t time.Time, phase Phase) Step {
	st := Step{Phase: phase, At: d.o.LookedAt.Add(5 * time.Second)}
	if t.Before(st.At) {
		st.At = t
	}
	if !d.now.Before(st.At) {
		st.Do = LookUp
	}
	return st
}

// instance reports whether the slot's instance runs.
func (d *decider) instance(phase Phase) (Step, bool) {
	i := d.o.Instance
	switch {
	case d.gone():
		return Step{Phase: phase, Reason: InstanceGone, Message: fmt.Sprintf("instance %s of node %s is gone, and its Node is not yet: "+
			"the cloud controller manager removes such Nodes, or delete it", d.s.Instance, d.s.Node)}, false
	case i == nil || d.o.InstanceAt.Before(d.m.instanceAfter):
		return Step{Do: ReadInstance, Phase: phase}, false
	case i.State == "running":
		return Step{}, true
	}
	st := Step{
		Phase: phase, Reason: InstanceNotRunning, At: d.o.InstanceAt.Add(instanceWait),
		Message: fmt.Sprintf("instance %s of node %s is %s: an ENI is attached once it runs", d.s.Instance, d.s.Node, i.State),
	}
	if !d.now.Before(st.At) {
		st.Do = ReadInstance
	}
	return st, false
}

// gone reports whether the instance has ended, or is about to.
func (d *decider) gone() bool {
	i := d.o.Instance
	return d.m.instanceGone || i != nil && (i.State == "" || i.State == "terminated" || i.State == "shutting-down")
}
