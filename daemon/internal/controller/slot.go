package controller

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/adopt"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/calls"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/entries"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/queue"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// planFresh is how old the knowledge of an instance may be when an ENI is created for it. See lifecycle.ExternalFresh, too.
const planFresh = 5 * time.Minute

// lookAtSlot takes the slot's next step, and returns when to look again without news.
func (l *loop) lookAtSlot(n *node, s *slot) time.Time {
	if s.busy || s.pending != nil {
		return time.Time{}
	}
	if s.wanted && !s.declared {
		return time.Time{} // its NodeENI is not known: it stays as it is
	}
	if s.wanted && s.mem.ENI == "" && s.mem.Request == "" && l.follows(n, s) {
		return l.Now().Add(time.Second)
	}
	now := l.Now()
	l.countOpening(s)
	l.nudge(n, s, now)
	o := l.observe(n, s)
	next := l.readPlace(n, s, o, now)
	step := lifecycle.Next(s.Slot, o, s.mem, now)
	l.tellDetached(n, s, step)
	if l.paused() && (step.Do == lifecycle.Store || step.Do == lifecycle.Drop || step.Do.Mutates()) {
		return next // noteRival goes on
	}
	if step.Do == lifecycle.ReadInstance && n.reading && s.Instance == n.instance {
		return next // it is being read
	}
	switch step.Do {
	case lifecycle.Wait:
		s.mem = lifecycle.After(s.mem, step, lifecycle.Result{}, now)
		l.told(n, s, now)
		next = queue.Earlier(next, step.At)
	case lifecycle.ReadNode:
		s.busy = true
		n.readers = append(n.readers, reader{s, step})
		l.readNode(n)
	case lifecycle.Store:
		if s.wanted && !l.finalized(s) {
			return next
		}
		m := lifecycle.After(s.mem, step, lifecycle.Result{}, now)
		s.pending = &m
	case lifecycle.Drop:
		if d := l.declOf(s); d != nil && s.mem.ENI != "" {
			d.left = append(d.left, s.mem.ENI+" on node "+s.Node)
		}
		s.mem = lifecycle.After(s.mem, step, lifecycle.Result{}, now)
		l.gone[s.ID] = gone{mem: s.mem, attempt: s.present().Attempt, at: now}
		l.log(n, s).Info("slot ended: nothing of it is left in EC2")
		l.dropSlot(n, s)
		return time.Time{}
	default:
		if wait, ok := l.breakers.Closed(step, now); !ok {
			s.mem.Phase, s.mem.Reason, s.mem.Message = lifecycle.Blocked, wait.Reason, wait.Message
			l.told(n, s, now)
			next = queue.Earlier(next, queue.Later(wait.Until, now.Add(time.Second)))
			break
		}
		l.act(n, s, step)
	}
	old := s.present()
	if s.entry == nil {
		old.Release = int(now.Unix()) // above all numbers of an earlier entry, of which nothing may be left but a late answer
	}
	s.show(lifecycle.Entry(old, *s.Slot, o, s.memory()))
	return next
}

// follows reports whether another slot of the NodeENI must end first: one that is not wanted any more, and has the slot's place, or an ENI that
// may be parked and so come to the slot. Nobody waits long for the latter: its node may be unreadable.
func (l *loop) follows(n *node, s *slot) bool {
	for _, o := range n.slots {
		if !o.wanted && o.NodeENI.UID == s.NodeENI.UID && o.Instance == s.Instance && o.Index == s.Exact {
			return true
		}
	}
	d := l.declOf(s)
	if s.Options.DeleteOnTermination || d == nil || !l.parking(d).Subnets[s.Subnet] || l.Now().Sub(s.since) >= time.Minute {
		return false
	}
	for _, o := range l.members[s.NodeENI.UID] {
		v, ok := l.enis.ENI(o.mem.ENI)
		settled := o.mem.Phase == lifecycle.Parked || o.mem.Phase == lifecycle.Deleting || o.mem.Phase == lifecycle.Blocked
		if ok && !o.wanted && !settled && v.Attachment == nil && o.Subnet == s.Subnet {
			return true
		}
	}
	return false
}

// present is the slot's entry, empty before the first one.
func (s *slot) present() v1alpha1.AttachmentEntry {
	if s.entry == nil {
		return v1alpha1.AttachmentEntry{}
	}
	return *s.entry
}

func (s *slot) show(e v1alpha1.AttachmentEntry) { s.entry = &e }

// memory is the slot's memory as its entry shows it.
func (s *slot) memory() lifecycle.Memory {
	if s.pending != nil {
		return *s.pending
	}
	return s.mem
}

// observe gathers the present knowledge of a slot.
func (l *loop) observe(n *node, s *slot) lifecycle.Observed {
	list, looked := l.enis.Slot(string(s.ID))
	if v, ok := l.enis.ENI(s.mem.ENI); ok && v.Tags[slots.TagSlot] != string(s.ID) {
		list = append(list, v)
	}
	o := lifecycle.Observed{
		Cluster: l.cluster, Interfaces: list, LookedAt: looked, Instance: s.instance, InstanceAt: s.instanceAt, Node: l.observeNode(n, s),
		Wanted: s.wanted, PlannedAt: n.plannedAt, Holders: n.plan.Holders, ForceAfter: l.ForceDetachAfter,
	}
	if d := l.declOf(s); d != nil {
		o.Abandoned = d.object.Deleting && slots.Abandoned(d.object.Is)
		rule := l.parking(d)
		o.Park, o.ParkUnknown = rule.Subnets[s.Subnet], rule.Unsure && !rule.Subnets[s.Subnet]
	}
	if !s.wanted {
		return o
	}
	if f, ok := n.plan.Faults[s.ID]; ok {
		o.Refused = &f
	}
	if v, ok := n.plan.External[s.ID]; ok {
		o.External = &v
	}
	if s.mem.ENI == "" {
		o.Move = l.movable(s)
		if d := l.declOf(s); d != nil && l.AdoptPublic {
			attached, _ := l.enis.Instance(s.Instance)
			if o.Adopt = adopt.Find(d.object.Is.Status.Attachments, *s.Slot, l.enis.ENI); o.Adopt == nil && o.External == nil {
				o.Refused = cmp.Or(adopt.Doubt(d.object.Is.Status.Attachments, *s.Slot, attached, l.enis.ENI), o.Refused)
			}
		}
	}
	return o
}

func (l *loop) observeNode(n *node, s *slot) lifecycle.Node {
	o := lifecycle.Node{Since: n.since, Exists: n.object != nil && n.instance == s.Instance}
	var stored v1alpha1.AttachmentEntry
	var has bool
	if n.state != nil {
		stored, has = entries.Of(n.state.Is.Spec, string(s.ID))
	}
	if !o.Exists {
		o.Reported = has && n.state.Is.Reported
		return o
	}
	o.Ready = n.object.Is.Ready
	o.Lost = s.storedIn != "" && (n.state == nil || n.state.UID != s.storedIn)
	if n.state != nil && n.state.Is.Reported {
		n.reported = n.instance
	} else if n.reported == n.instance && s.mem.ENI != "" {
		s.mem.Found = true // its daemon may have it, though the object with its report has gone
	}
	if n.state == nil {
		return o
	}
	state := &n.state.Is
	if has {
		s.storedIn = n.state.UID
	}
	o.Reported, o.Protocol = state.Reported, state.Protocol
	o.Released = s.present().ENIID == s.mem.ENI && lifecycle.Answered(s.present(), stored, state.Released)
	for _, d := range state.Devices {
		if d.ENI == s.mem.ENI && d.ENI != "" {
			o.Device, o.Holders = d.Phase, d.Holders
		}
	}
	return o
}

// readPlace asks EC2 about the instance, if the slot needs a place there.
func (l *loop) readPlace(n *node, s *slot, o lifecycle.Observed, now time.Time) time.Time {
	if !s.wanted || !o.Node.Exists || slices.ContainsFunc(o.Interfaces, func(v vpc.Interface) bool { return v.Attachment != nil }) {
		return time.Time{}
	}
	fresh := planFresh
	if o.External != nil {
		fresh = lifecycle.ExternalFresh
	}
	old := n.plannedAt.Add(fresh)
	if n.plannedAt.IsZero() || s.mem.ENI == "" && !now.Before(old) {
		l.readNode(n)
	}
	if n.plannedAt.IsZero() || s.mem.ENI != "" {
		return time.Time{}
	}
	return queue.Later(old, now.Add(time.Second))
}

// finalized: the NodeENI has the finalizer, so that it does not end before its ENIs.
func (l *loop) finalized(s *slot) bool {
	d := l.declOf(s)
	if d == nil {
		return true // it is undecodable or gone, and nothing is created for it
	}
	if d.hasFinalizer() {
		return true
	}
	if !d.busy && !d.object.Deleting && !l.Now().Before(d.retryAt) {
		l.change(d, l.Cluster.AddFinalizer)
	}
	return false
}

// act makes the step's call.
func (l *loop) act(n *node, s *slot, step lifecycle.Step) {
	s.busy = true
	pool, confirm := l.looks, func(context.Context) error { return nil }
	standing := context.Context(nil)
	if step.Do.Mutates() {
		pool, s.ground = l.changes, n.ground(s)
		standing, s.end = context.WithCancelCause(l.rivals.Alone())
	}
	if step.Do == lifecycle.Detach || step.Do == lifecycle.ForceDetach {
		name, seen := n.name, n.state
		confirm = func(ctx context.Context) error { return l.Cluster.Confirm(ctx, name, seen) }
	}
	passed := l.breakers.Try(step)
	began, attempt := l.Now(), s.mem.Attempt
	do(l, pool, l.urgency(s, step), func(ctx context.Context) (calls.Answer, error) {
		ctx = vpc.WhileStanding(ctx, standing)
		err := vpc.Standing(ctx)
		if err == nil {
			err = confirm(ctx)
		}
		if err != nil {
			return calls.Answer{Result: lifecycle.Result{Err: err}}, err
		}
		a := calls.Make(ctx, l.EC2, l.cluster, attempt, step)
		return a, a.Err
	}, func(a calls.Answer, err error) {
		a.Note(l.enis, began, l.Now())
		if err == nil && a.Instance != nil {
			s.instance, s.instanceAt = a.Instance, began
		}
		passed.Ended(err, l.Now())
		s.done()
		if errors.Is(err, vpc.ErrWithdrawn) {
			l.dirtyNodes[n.name], l.dirtyNodes[s.Node] = true, true
			return // as if it had never been begun
		}
		l.ended(n, s, step, a.Result)
	})
}

// done notes that no call is under way any more.
func (s *slot) done() {
	s.withdraw() // only to free its context
	s.busy, s.end = false, nil
}

// ended takes the result of a step.
func (l *loop) ended(n *node, s *slot, step lifecycle.Step, r lifecycle.Result) {
	now := l.Now()
	s.mem = lifecycle.After(s.mem, step, r, now)
	l.tellResult(n, s, step, r.Err)
	if do := s.mem.Denied; do != lifecycle.Wait {
		l.breakers.Forbid(do, now)
		l.tellFailed(n, s, do)
	}
	if r.Err != nil {
		l.doubt(s, now)
	}
	l.dirtyNodes[n.name], l.dirtyNodes[s.Node] = true, true
}

// doubt makes the catalog ask EC2 again about a subnet or group that it has just refused.
func (l *loop) doubt(s *slot, now time.Time) {
	switch s.mem.Reason {
	case slots.InvalidSubnet:
		l.catalog.DoubtSubnet(now, s.Subnet)
	case slots.InvalidSecurityGroup:
		l.catalog.DoubtGroups(now, s.Groups)
	}
}

// urgency says which calls come first.
func (l *loop) urgency(s *slot, step lifecycle.Step) vpc.Priority {
	if d := l.declOf(s); d != nil {
		return calls.Urgency(step, s.wanted, d.opening)
	}
	return calls.Urgency(step, s.wanted, 1)
}

// countOpening counts the slots of a NodeENI that have no ENI attached yet, and are on the way to it.
func (l *loop) countOpening(s *slot) {
	switch s.mem.Phase {
	case lifecycle.Attached, lifecycle.Ready, lifecycle.External, lifecycle.Parked, lifecycle.Blocked:
		l.setOpening(s, false)
	default:
		l.setOpening(s, s.wanted)
	}
}

func (l *loop) setOpening(s *slot, is bool) {
	if s.opening == is {
		return
	}
	s.opening = is
	if d := l.declOf(s); d != nil {
		if is {
			d.opening++
		} else {
			d.opening--
		}
	}
}
