package lifecycle

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// After returns the memory of a slot after a step.
func After(m Memory, st Step, r Result, now time.Time) Memory {
	if m.Phase != st.Phase {
		m.polls = 0
	}
	m.Phase, m.Reason, m.Message, m.Denied = st.Phase, st.Reason, st.Message, Wait
	m.reported = m.reported || st.note.reported
	m.Found = m.Found || st.note.lost
	switch {
	case !st.note.draining:
		m.drainingSince = time.Time{}
	case (m.drainingSince.IsZero() || st.note.lost && st.Do == Store) && (st.Do != Store || r.Err == nil):
		m.drainingSince = now
	}
	switch {
	case !st.note.detaching && st.Do != Detach && st.Do != ForceDetach && !st.Do.looks():
		m.detachingSince = time.Time{}
	case st.note.detaching && m.detachingSince.IsZero():
		m.detachingSince = now
	}
	if st.note.attached != "" {
		m.AttachmentID = st.note.attached
	}
	if st.note.there || st.Do.Mutates() && r.Err == nil && st.ENI == m.ENI {
		m.missingSince = time.Time{}
	}
	if r.Err != nil {
		return failed(m, st, r.Err, now)
	}
	if st.Do == m.Failed {
		m.Failed, m.RetryAt, m.Failures = Wait, time.Time{}, 0
	}
	return m.done(st, r, now)
}

// done notes a success.
func (m Memory) done(st Step, r Result, now time.Time) Memory {
	if st.Do.Mutates() {
		w := own{}
		if m.own != nil && st.ENI == m.ENI && st.Do != Create {
			w = *m.own
		}
		m.own = &w
		m.wroteAt, m.settled, m.polls = now, now.Add(overlay), 0
	}
	switch st.Do {
	case Wait:
		if st.note.shown {
			m.own = nil
		}
	case LookUp:
	case Store:
		m = m.stored(st, now)
	case Create:
		m.own.created, m.createdAt, m.missingSince = r.Interface, now, time.Time{}
		if r.Interface != nil {
			m.ENI = r.Interface.ID
		}
	case Attach:
		m.AttachmentID = r.Attachment
		m.own.attachment = &vpc.Attachment{
			ID: r.Attachment, Instance: st.Slot.Instance, DeviceIndex: st.Slot.Index, NetworkCard: st.Slot.Card, Status: "attaching",
		}
	case SetTermination:
		m.own.terminationOf, m.own.termination = st.Attachment, st.Slot.Options.DeleteOnTermination
	case SetGroups:
		m.own.groups = st.Slot.Groups
	case SetSourceDestCheck:
		m.own.sourceDestCheck = st.Slot.Options.SourceDestCheck
	case Tag:
		m.Request, m.own.tagged, m.lookAfter = moved, st.ENI, now
	case Detach, ForceDetach:
		m.own.detached = st.Attachment
		if m.detachingSince.IsZero() {
			m.detachingSince = now
		}
	case Delete:
		m = m.ended(st.ENI)
	case Describe:
		m.describedAt, m.missingSince = now, time.Time{}
		m.polls++
		if st.ENI == m.ENI {
			m = m.confirm(r.Interface)
		}
	case ReadNode:
		m.nodeReadAt = now
		m.polls++
	case ReadInstance:
		m.instanceMissing = time.Time{}
	case Drop:
		m = Memory{Attempt: m.Attempt}
	}
	return m
}

func (m Memory) stored(st Step, now time.Time) Memory {
	n := st.note
	if n.adopt {
		m.own, m.wroteAt, m.missingSince, m.mismatch, m.suspect = nil, time.Time{}, time.Time{}, time.Time{}, nil
		m.ENI, m.AttachmentID, m.Found, m.createdAt = st.ENI, n.attached, n.found, now
		m.Request = n.request
		return m
	}
	if n.attempt != m.Attempt {
		m.mismatch = time.Time{}
	}
	m.Attempt, m.Request = n.attempt, n.request
	return m
}

// ended notes that an ENI does not exist any more. If it was the slot's, the attempt has come to its end.
func (m Memory) ended(eni string) Memory {
	m.gone = eni
	if m.ENI == eni {
		m.ENI, m.AttachmentID, m.Request, m.Found, m.suspect = "", "", "", false, nil
		m.missingSince, m.detachingSince = time.Time{}, time.Time{}
	}
	return m
}

// Nudge lets a slot that waits after a failure go on, because something it depends on has changed.
func (m Memory) Nudge() Memory {
	m.RetryAt = time.Time{}
	return m
}
