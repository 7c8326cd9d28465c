package controller

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/entries"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/pace"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// calm is for how long a change of entries may be gathered with later ones, if neither a slot nor the daemon waits for it.
const calm = 500 * time.Millisecond

// writeSpec writes the node's entries if they have changed, and returns when to look again.
func (l *loop) writeSpec(n *node) time.Time {
	now := l.Now()
	switch {
	case n.object == nil, n.is.ProviderID == "" && len(n.slots) > 0:
		// Without its instance, which a new Node gets a little later, nobody knows which entries are the node's: they stay.
		l.commit(n, n.pending(), nil)
		return time.Time{}
	case n.busy || l.paused():
		return time.Time{}
	case now.Before(n.retryAt):
		return n.retryAt
	}
	list := n.entries()
	want := entries.Spec(list)
	pending := n.pending()
	var present *v1alpha1.ENINodeStateSpec
	if n.state != nil {
		present = &n.state.Is.Spec
	}
	if entries.Equal(present, want) {
		n.changed = time.Time{}
		n.share()
		l.commit(n, pending, nil)
		return time.Time{}
	}
	if len(pending) == 0 && !entries.Urgent(present, want) {
		if n.changed.IsZero() {
			n.changed = now
		}
		if due := n.changed.Add(calm); now.Before(due) {
			return due
		}
	}
	n.busy, n.changed = true, time.Time{}
	seen := n.state
	name := n.name
	// Thousands of writes may wait: each makes its spec when it is its turn.
	l.write(func(ctx context.Context) error { return l.Cluster.WriteSpec(ctx, name, seen, entries.Spec(list)) }, func(err error) {
		n.busy = false
		n.retryAt = l.again(&n.retry, err, logrus.Fields{"node": n.name}, "entries of ENINodeState not written; it is tried again")
		l.commit(n, pending, err)
		l.dirtyNodes[n.name] = true
	})
	return time.Time{}
}

// again notes how a write ended, and returns when the next may be made.
func (l *loop) again(w *pace.Writes, err error, log logrus.Fields, message string) time.Time {
	wait, news := w.Ended(err, errors.Is(err, fleet.ErrConflict) || errors.Is(err, fleet.ErrGone))
	if news {
		l.Log.WithError(err).WithFields(log).Warn(message)
	}
	return l.Now().Add(wait)
}

// entries are the wish for the ENINodeState of the node. Slots of an earlier instance of the same name are left out.
func (n *node) entries() (list []*v1alpha1.AttachmentEntry) {
	for _, s := range n.slots {
		if s.entry != nil && s.Instance == n.instance {
			list = append(list, s.entry)
		}
	}
	return list
}

// share lets the slots have the entries of the ENINodeState, which are equal to theirs, so that there is one copy in memory.
func (n *node) share() {
	if n.state == nil {
		return
	}
	list := n.state.Is.Spec.Attachments
	for i := range list {
		if s := n.slots[slots.ID(list[i].Slot)]; s != nil {
			s.entry = &list[i]
		}
	}
}

// stores are memories that count once they are written.
type stores map[*slot]*lifecycle.Memory

func (n *node) pending() stores {
	out := stores{}
	for _, s := range n.slots {
		if s.pending != nil {
			out[s] = s.pending
		}
	}
	return out
}

// commit takes the result of the write.
func (l *loop) commit(n *node, pending stores, err error) {
	for s, m := range maps.All(pending) {
		if s.pending != m {
			continue
		}
		if err == nil {
			s.mem = *m
		}
		s.pending = nil
		l.dirtyNodes[n.name] = true
	}
}
