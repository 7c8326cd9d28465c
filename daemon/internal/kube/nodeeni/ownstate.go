package nodeeni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// ownState is the controller's list in one version of the own ENINodeState; immutable. The zero value: there is no such object.
type ownState struct {
	trimmed []byte
	// silent says why the list is not known; "" if it is. Without the list there are no entries.
	silent  string
	entries []*slotEntry
	unread  []*unreadEntry
	// last has the last readable version of each slot of this list.
	last map[string]*slotEntry
}

// newOwnState reads a version of the object that was prev before; nil for none. Without a change it returns prev.
func newOwnState(prev *ownState, it *item) *ownState {
	if prev != nil && bytes.Equal(prev.trimmed, it.trimmed) {
		return prev
	}
	s := &ownState{trimmed: it.trimmed, last: map[string]*slotEntry{}}
	before := map[string]*slotEntry{}
	if prev != nil {
		before = prev.last
	}
	var o struct {
		Spec struct {
			Protocol    int               `json:"protocol"`
			Attachments []json.RawMessage `json:"attachments"`
		} `json:"spec"`
	}
	err := json.Unmarshal(it.trimmed, &o)
	switch {
	case err != nil:
		s.silent = fmt.Sprintf("spec of ENINodeState %s cannot be read (%v): run controller and daemon of one version", it.Name, err)
	case o.Spec.Protocol == 0:
		s.silent = fmt.Sprintf("the controller has not written spec of ENINodeState %s: see that multi-enid controller runs, or start multi-enid with another "+
			"--attachments-from", it.Name)
	case o.Spec.Protocol != v1alpha1.Protocol:
		s.silent = fmt.Sprintf("spec.protocol of ENINodeState %s is %d, and this multi-enid speaks %d: run controller and daemon of one version", it.Name,
			o.Spec.Protocol, v1alpha1.Protocol)
	}
	if s.silent != "" {
		s.silent += "; no ENI counts as removed meanwhile"
		s.last = before
		return s
	}
	for _, raw := range o.Spec.Attachments {
		e, bad := readEntry(raw, before)
		if bad != nil {
			s.unread = append(s.unread, bad)
			if b := before[bad.slot]; b != nil {
				s.last[bad.slot] = b
			}
			continue
		}
		s.entries, s.last[e.Slot] = append(s.entries, e), e
	}
	return s
}

// snapshot is the list for an instance, "" if that is not known.
func (o *ownState) snapshot(instance string) inventory.Snapshot {
	snap := inventory.Snapshot{Complete: true, Lookup: inventory.LookupEntries}
	var ours []*slotEntry
	for _, e := range o.entries {
		if instance == "" || e.instance == instance { // an earlier instance of this name has taken its ENIs along
			ours = append(ours, e)
			snap.Entries = append(snap.Entries, e.Entry)
		}
	}
	snap.Objects = objectsOf(ours)
	for _, u := range o.unread {
		snap.Problems = append(snap.Problems, u.problem())
		switch {
		case u.eni != "":
			snap.UnreadENIs = append(snap.UnreadENIs, u.eni)
		case u.nodeENI != "":
			snap.Unread = append(snap.Unread, u.nodeENI)
		default:
			snap.Complete = false
		}
	}
	return snap
}

// listEntries is List for the controller's list. Hold mu.
func (s *Source) listEntries() inventory.Snapshot {
	why := s.own.silent
	switch {
	case s.own.trimmed == nil:
		why = fmt.Sprintf("there is no ENINodeState %s, which multi-enid makes and the controller completes; no ENI counts as removed meanwhile",
			s.client.NodeName)
	case why == "" && !s.reported:
		why = fmt.Sprintf("multi-enid has not written its first status into ENINodeState %s, and offers no new ENI before; read its log", s.client.NodeName)
	}
	if why != "" {
		return inventory.Snapshot{Lookup: inventory.LookupEntries, Silent: why, SilentFor: s.now().Sub(s.silentSince)}
	}
	snap := s.own.snapshot(s.instance())
	snap.Shown = s.shown
	for i := range snap.Entries {
		e := &snap.Entries[i]
		e.Withheld = slices.ContainsFunc(s.released, func(r v1alpha1.ReleasedENI) bool { return r.ENIID == e.ENI.ID.String() })
	}
	return snap
}

// Reported says that the ENINodeState has a status of this protocol, so that the controller asks before it detaches an ENI, and which ENIs
// are released by it. Before it no device of the controller's list is offered, and no device of those ENIs. view is the Number of the View that
// the status shows; 0 for none.
func (s *Source) Reported(released []v1alpha1.ReleasedENI, view uint64) {
	s.change(func() bool {
		seen := !s.reported || !slices.Equal(s.released, released)
		s.reported, s.released, s.shown = true, released, max(s.shown, view)
		return seen
	})
}

// setOwn takes a version of the own ENINodeState; nil for none.
func (s *Source) setOwn(it *item) {
	s.change(func() bool {
		before := s.own
		if it == nil {
			s.own = &ownState{}
			if before != nil {
				s.own.last = before.last
			}
		} else {
			s.own = newOwnState(before, it)
		}
		if before == nil || before.known() && !s.own.known() {
			s.silentSince = s.now()
		}
		return before == nil || before != s.own && !bytes.Equal(before.trimmed, s.own.trimmed)
	})
	if it == nil {
		s.stateGone()
	}
}

func (o *ownState) known() bool { return o.trimmed != nil && o.silent == "" }

type ownStore struct{ s *Source }

func (o ownStore) Add(v any) error { return o.Update(v) }

func (o ownStore) Update(v any) error {
	it, ok := v.(*item)
	if !ok {
		return fmt.Errorf("%w: %T instead of an ENINodeState", errMalformed, v)
	}
	if it.Name == o.s.client.NodeName {
		o.s.setOwn(it)
	}
	return nil
}

func (o ownStore) Delete(v any) error {
	if it, ok := v.(*item); ok && it.Name == o.s.client.NodeName {
		o.s.setOwn(nil)
	}
	return nil
}

// Replace alone makes the absence of the object known.
func (o ownStore) Replace(all []any, _ string) error {
	o.s.health.synced()
	for _, v := range all {
		if it, ok := v.(*item); ok && it.Name == o.s.client.NodeName {
			o.s.setOwn(it)
			return nil
		}
	}
	o.s.setOwn(nil)
	return nil
}

func (ownStore) Resync() error { return nil }
