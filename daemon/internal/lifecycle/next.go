package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Reasons of a slot that waits. Package slots has more.
const (
	InstanceGone       = "InstanceGone"
	InstanceNotRunning = "InstanceNotRunning"
	AttachedElsewhere  = "AttachedElsewhere"
	WaitingForNode     = "WaitingForNode"
	DaemonTooOld       = "DaemonTooOld"
	DeviceInUse        = "DeviceInUse"
	DetachStuck        = "DetachStuck"
	UnreadableENI      = "UnreadableENI"
	Abandoned          = "Abandoned"
)

// Next returns the next step of a slot, which nobody may change from now on. The caller serialises the steps of a slot, and gives each to After,
// Wait too.
func Next(s *slots.Slot, o Observed, m Memory, now time.Time) Step {
	d := decider{s: s, o: o, m: m, now: now}
	st := d.decide()
	st.Slot = s
	st.note.reported = o.Node.Reported
	st.note.lost = o.Node.Lost || m.reported && !o.Node.Reported
	if st.Do == Attach {
		st.note.holders = o.Holders
	}
	st.note.there = d.eni != nil && d.eni.ID == m.ENI && o.LookedAt.After(m.missingSince)
	st.note.shown = d.shown()
	st.note.draining = !o.Wanted && (!m.drainingSince.IsZero() || st.note.draining || !o.Node.Exists)
	if m.Failed != Wait && now.Before(m.RetryAt) {
		st = pending(st, m)
	}
	if st.Phase == "" { // a look: it ends nothing
		if st.Phase = m.Phase; st.Reason == "" {
			st.Reason, st.Message = m.Reason, m.Message
		}
	}
	return st
}

// pending holds the failed action back, and lets a look show the failure.
func pending(st Step, m Memory) Step {
	why := m.why
	if why == nil {
		why = &plight{m.Phase, m.Reason, m.Message}
	}
	switch {
	case st.Do == m.Failed:
		st = Step{Slot: st.Slot, At: m.RetryAt, note: st.note}
		st.note.adopt = false
	case st.Do == Wait || st.Do > ReadNode || st.Reason != "":
		return st
	}
	st.Phase, st.Reason, st.Message = why.phase, why.reason, why.message
	return st
}

type decider struct {
	s   *slots.Slot
	o   Observed
	m   Memory
	now time.Time
	// eni is the slot's ENI, nil for none; twins are others with the slot's tag.
	eni   *vpc.Interface
	twins []vpc.Interface
}

func (d *decider) decide() Step {
	if !d.o.Wanted && d.o.Abandoned {
		return Step{Do: Drop, Reason: Abandoned, ENI: d.m.ENI, Message: fmt.Sprintf("annotation %s of NodeENI %s is true: %s is left behind on node %s (instance %s)",
			slots.AnnotationAbandon, d.s.NodeENI.Name, cmp.Or(d.m.ENI, "nothing"), d.s.Node, d.s.Instance)}
	}
	if d.o.LookedAt.IsZero() {
		return Step{Do: LookUp}
	}
	for _, e := range d.o.Interfaces {
		if e.Unreadable != nil {
			return Step{Reason: UnreadableENI, Message: fmt.Sprintf("%s of NodeENI %s on node %s stays as it is, because EC2's description of it "+
				"makes no sense: %v; the controller looks again each 10 minutes", e.ID, d.s.NodeENI.Name, d.s.Node, e.Unreadable)}
		}
	}
	d.find()
	if !d.seen().After(d.m.lookAfter) && !d.m.lookAfter.IsZero() {
		return d.look()
	}
	if d.m.ENI != "" && d.passedOn() {
		if d.seen().Before(d.m.settled) { // a late answer, maybe
			return d.lookAt(d.m.settled)
		}
		return Step{Do: Store, Phase: Wanted, note: note{adopt: true, attempt: d.m.Attempt}}
	}
	for _, t := range d.twins {
		if t.Attachment == nil && (t.Status == "available" || t.Status == "pending") {
			return Step{Do: Delete, ENI: t.ID, Phase: d.m.Phase}
		}
	}
	switch {
	case d.eni == nil && d.m.ENI != "":
		return Step{Do: Describe, ENI: d.m.ENI}
	case d.eni != nil && d.eni.ID != d.m.ENI:
		return d.adopt()
	case d.m.Request == adopting && d.eni.Tags[slots.TagSlot] == "":
		return d.mark()
	case d.o.Wanted:
		return d.make()
	}
	return d.release()
}

// mark gives the slot's tags to an ENI of the public controller, or leaves it alone if nobody wants it any more.
func (d *decider) mark() Step {
	switch {
	case d.o.Wanted:
		return Step{Do: Tag, ENI: d.eni.ID, Phase: Creating}
	case d.seen().Before(d.m.settled):
		return d.lookAt(d.m.settled)
	}
	return Step{Do: Store, Phase: Wanted, note: note{adopt: true, attempt: d.m.Attempt}}
}

// seen is when the newest answer about the slot's ENI was asked for.
func (d *decider) seen() time.Time {
	if d.m.describedAt.After(d.o.LookedAt) {
		return d.m.describedAt
	}
	return d.o.LookedAt
}

// shown: no answer is so early that it may lack an own write.
func (d *decider) shown() bool { return !d.seen().Before(d.m.wroteAt.Add(overlay)) }

// fresh has the own writes that count more than the answers.
func (d *decider) fresh() own {
	if d.m.own == nil || d.shown() {
		return own{}
	}
	return *d.m.own
}

// look asks EC2 anew: by id where there is one.
func (d *decider) look() Step {
	if d.m.ENI != "" {
		return Step{Do: Describe, ENI: d.m.ENI}
	}
	return Step{Do: LookUp}
}

// lookAt asks about the slot's ENI each 5 seconds, at last at t.
func (d *decider) lookAt(t time.Time) Step {
	st := Step{At: d.seen().Add(5 * time.Second), ENI: d.m.ENI}
	if t.Before(st.At) {
		st.At = t
	}
	if !d.now.Before(st.At) {
		st.Do = Describe
	}
	return st
}

// find picks the slot's ENI from the answers, and lays the controller's own writes over it.
func (d *decider) find() {
	m, w := d.m, d.fresh()
	var all []vpc.Interface
	for _, e := range d.o.Interfaces {
		slot := slots.ID(e.Tags[slots.TagSlot])
		mine := slot == d.s.ID || e.ID == m.ENI && (slot == "" || m.Request == moving && d.o.Wanted && e.Attachment == nil || w.tagged == e.ID)
		if mine && e.ID != m.gone {
			all = append(all, e)
		}
	}
	if c := w.created; c != nil && c.ID == m.ENI && !slices.ContainsFunc(all, func(e vpc.Interface) bool { return e.ID == c.ID }) {
		all = append(all, *c)
	}
	if len(all) == 0 {
		return
	}
	slices.SortFunc(all, func(a, b vpc.Interface) int {
		return cmp.Or(cmp.Compare(d.rank(a), d.rank(b)), cmp.Compare(a.ID, b.ID))
	})
	e := all[0]
	d.eni, d.twins = &e, all[1:]
	if e.ID == m.ENI {
		w.over(&e)
	}
}

// rank is lower for the ENI to keep.
func (d *decider) rank(e vpc.Interface) int {
	switch {
	case e.Attachment != nil && e.Attachment.Instance == d.s.Instance:
		return 0
	case e.ID == d.m.ENI:
		return 1
	}
	return 2
}

// over corrects a late answer.
func (w own) over(e *vpc.Interface) {
	if w.groups != nil {
		e.Groups = w.groups
	}
	if w.sourceDestCheck != nil {
		e.SourceDestCheck = *w.sourceDestCheck
	}
	if e.Attachment == nil && w.attachment != nil && w.attachment.ID != w.detached {
		a := *w.attachment
		e.Attachment, e.Status = &a, "attaching"
	}
	if e.Attachment == nil {
		return
	}
	a := *e.Attachment
	if w.terminationOf == a.ID {
		a.DeleteOnTermination = w.termination
	}
	if w.detached == a.ID && a.Status != "detached" {
		a.Status = "detaching"
	}
	e.Attachment = &a
}

// passedOn reports whether the slot's ENI has the tag of another slot now: it was parked, and went to another node.
func (d *decider) passedOn() bool {
	if d.eni != nil && d.eni.ID == d.m.ENI {
		return false
	}
	for _, e := range d.o.Interfaces {
		if e.ID == d.m.ENI && e.ID != d.m.gone {
			return true
		}
	}
	return false
}

// adopt takes an ENI that was found by its tag.
func (d *decider) adopt() Step {
	st := Step{Do: Store, Phase: Created, ENI: d.eni.ID, note: note{adopt: true, attempt: d.m.Attempt, request: d.m.Request}}
	if a := d.attachment(); a != nil {
		st.Phase, st.note.attached = Attaching, a.ID
		st.note.found = d.m.Attempt == 0 || d.m.Request == ""
	}
	return st
}

// attachment is the one to this slot's instance or to another, nil for an ENI that is free.
func (d *decider) attachment() *vpc.Attachment {
	if d.eni == nil || d.eni.Attachment == nil || d.eni.Attachment.Status == "detached" {
		return nil
	}
	return d.eni.Attachment
}

// poll asks about the ENI again, at first after half a second, then more rarely.
func (d *decider) poll(st Step, most time.Duration) Step {
	last := d.m.describedAt
	if d.m.wroteAt.After(last) {
		last = d.m.wroteAt
	}
	st.At = last.Add(backoff(500*time.Millisecond, most, d.m.polls))
	if !d.now.Before(st.At) {
		st.Do, st.ENI = Describe, d.eni.ID
	}
	return st
}

func backoff(first, most time.Duration, n int) time.Duration {
	return min(first<<min(max(n, 0), 20), most)
}

// releasing: a Detach may have been sent in this phase, or be the next step.
func releasing(p Phase) bool { return p == Draining || p == Released || p == Detaching }

// make is the way to an attached ENI.
func (d *decider) make() Step {
	a := d.attachment()
	if a == nil {
		return d.join()
	}
	want := d.s.Options
	switch {
	case a.Instance != d.s.Instance:
		return d.foreign(a)
	case a.Status == "detaching":
		return d.detaching()
	case releasing(d.m.Phase) && d.seen().Before(d.m.settled):
		// Its Detach may be under way, maybe an earlier leader's, and the answer be late.
		st := d.lookAt(d.m.settled)
		st.Phase = Detaching
		return st
	case a.DeleteOnTermination != want.DeleteOnTermination:
		return Step{Do: SetTermination, ENI: d.eni.ID, Attachment: a.ID, Phase: Attaching}
	case want.SourceDestCheck != nil && d.eni.SourceDestCheck != *want.SourceDestCheck:
		return Step{Do: SetSourceDestCheck, ENI: d.eni.ID, Attachment: a.ID, Phase: Attaching}
	case !slices.Equal(d.eni.Groups, d.s.Groups):
		return Step{Do: SetGroups, ENI: d.eni.ID, Attachment: a.ID, Phase: Attaching}
	case a.Status == "attaching":
		return d.poll(Step{Phase: Attaching}, 15*time.Second)
	}
	st := Step{Phase: Attached, Attachment: a.ID, note: note{attached: a.ID}}
	if d.o.Node.Device == "ready" {
		st.Phase = Ready
	}
	return st
}

// foreign: somebody has attached the slot's ENI to another instance. It is theirs until they give it back.
func (d *decider) foreign(a *vpc.Attachment) Step {
	st := Step{
		Phase: Blocked, Reason: AttachedElsewhere, At: d.seen().Add(foreignAfter),
		Message: fmt.Sprintf("%s of NodeENI %s is attached to %s, not to %s (node %s): detach it there, or delete it", d.eni.ID, d.s.NodeENI.Name, a.Instance,
			d.s.Instance, d.s.Node),
	}
	if !d.now.Before(st.At) {
		st.Do, st.ENI = Describe, d.eni.ID
	}
	return st
}
