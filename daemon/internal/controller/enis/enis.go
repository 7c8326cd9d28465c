// Package enis has the controller's knowledge of a region's ENIs: the last description of each, under the controller's own writes. EC2's
// descriptions lag behind writes, so an own write counts for Lag, whatever EC2 shows.
package enis

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Lag is how long a description may show an ENI as it was before a write.
const Lag = 30 * time.Second

// keepRead is how long a look at an instance is remembered: longer than any slot relies on it.
const keepRead = 2 * lifecycle.ExternalFresh

// Store is the knowledge. It must not be used concurrently. Each description comes with the time at which its call began.
type Store struct {
	records  map[string]*record
	slots    map[string][]string  // slot -> ENIs, in no order
	attached map[string][]string  // instance -> ENIs, in no order
	looked   map[string]time.Time // slot -> begin of the last look
	read     map[string]time.Time // instance -> begin of the last look
	listed   time.Time            // begin of the last list of all
}

// record is one ENI. A deleted one stays until no description may show it.
type record struct {
	seen    *vpc.Interface // as EC2 described it, or as Create answered; nobody changes it
	at      time.Time      // the begin of that description
	created time.Time      // by us; zero if not
	deleted time.Time      // by us; zero if not
	edits   []edit
	now     *vpc.Interface // seen with edits; seen itself without any; nobody changes it
}

type edit struct {
	at time.Time
	Write
}

// Write is a write to an ENI.
type Write struct {
	// apply makes of a description before the write the one after it, and leaves the one after it as it is.
	apply func(*vpc.Interface)
	// shown: the description is the one after it.
	shown func(*vpc.Interface) bool
}

// New returns an empty Store.
func New() *Store {
	return &Store{
		records: map[string]*record{}, slots: map[string][]string{}, attached: map[string][]string{},
		looked: map[string]time.Time{}, read: map[string]time.Time{},
	}
}

// See takes descriptions. An older one than the last is passed over. An ENI that is unreadable keeps its last values; without a readable id it counts
// as one more ENI of its slot.
func (s *Store) See(began time.Time, list ...vpc.Interface) {
	for i := range list {
		v := list[i]
		if v.ID == "" {
			v.ID = "an ENI without a readable id, of slot " + v.Tags[slots.TagSlot]
		}
		r := s.records[v.ID]
		if v.Unreadable != nil && r != nil {
			last := *r.seen
			last.Unreadable = v.Unreadable
			v = last
		}
		if r == nil {
			r = &record{seen: &vpc.Interface{}}
			s.records[v.ID] = r
		}
		if began.Before(r.at) {
			continue
		}
		if !r.deleted.IsZero() && began.Sub(r.deleted) >= Lag {
			r.deleted = time.Time{} // EC2 still has it
		}
		r.edits = slices.DeleteFunc(r.edits, func(e edit) bool { return began.Sub(e.at) >= Lag || began.After(e.at) && e.shown(&v) })
		v = trim(v)
		if maps.Equal(v.Tags, r.seen.Tags) {
			v.Tags = r.seen.Tags // thousands of ENIs are described again and again
		}
		s.unlink(r)
		r.seen, r.at = &v, began
		s.renew(r)
	}
}

// SeeAll takes the descriptions of all ENIs with a slot. ENIs with a slot that are not among them are forgotten, except new ones.
func (s *Store) SeeAll(began time.Time, list []vpc.Interface) {
	s.See(began, list...)
	s.missing(began, list, maps.Keys(s.records), func(r *record) bool { return s.slot(r) != "" })
	s.listed = began
	maps.DeleteFunc(s.looked, func(_ string, at time.Time) bool { return !at.After(began) })
	maps.DeleteFunc(s.read, func(_ string, at time.Time) bool { return began.Sub(at) > keepRead })
}

// SeePublic takes the descriptions of all ENIs with the public controller's tag. Those of the Store that are not among them, and have no slot, are forgotten.
func (s *Store) SeePublic(began time.Time, list []vpc.Interface) {
	for i := range list {
		if list[i].Tags[slots.TagCluster] == "" {
			s.See(began, list[i])
		}
	}
	s.missing(began, list, maps.Keys(s.records), func(r *record) bool {
		return s.slot(r) == "" && r.seen.Tags[slots.TagManagedBy] == slots.ManagedBy
	})
}

// SeeSlot takes the descriptions of all ENIs of one slot.
func (s *Store) SeeSlot(began time.Time, slot string, list []vpc.Interface) {
	s.See(began, list...)
	s.missing(began, list, slices.Values(slices.Clone(s.slots[slot])), func(*record) bool { return true })
	s.looked[slot] = began
}

// SeeInstance takes the descriptions of all ENIs that are attached to one instance. Others with a slot are left as they are.
func (s *Store) SeeInstance(began time.Time, instance string, list []vpc.Interface) {
	s.See(began, list...)
	s.missing(began, list, slices.Values(slices.Clone(s.attached[instance])), func(r *record) bool { return s.slot(r) == "" })
	s.read[instance] = began
}

// Missing notes that EC2 does not know the ENI.
func (s *Store) Missing(began time.Time, id string) {
	if r := s.records[id]; r != nil {
		s.miss(id, r, began)
	}
}

// missing notes that a whole list lacks some of the ENIs. One whose id nobody can read may be any of them.
func (s *Store) missing(began time.Time, list []vpc.Interface, among iter.Seq[string], of func(*record) bool) {
	listed := map[string]bool{}
	for i := range list {
		listed[list[i].ID] = true
	}
	if listed[""] {
		return
	}
	for id := range among {
		if r := s.records[id]; of(r) && !listed[id] {
			s.miss(id, r, began)
		}
	}
}

func (s *Store) miss(id string, r *record, began time.Time) {
	if began.Before(r.at) || !r.created.IsZero() && began.Sub(r.created) < Lag {
		return
	}
	if !r.deleted.IsZero() && began.Sub(r.deleted) < Lag {
		return // a later description may show it again
	}
	s.unlink(r)
	delete(s.records, id)
}

// Created notes an ENI that the controller created, and returns it as it is kept: nobody may change it.
func (s *Store) Created(at time.Time, v vpc.Interface) *vpc.Interface {
	v = trim(v)
	r := &record{seen: &v, at: at, created: at}
	if old := s.records[v.ID]; old != nil {
		s.unlink(old)
	}
	s.records[v.ID] = r
	s.renew(r)
	return &v
}

// Wrote notes a write to an ENI.
func (s *Store) Wrote(at time.Time, id string, w Write) {
	if r := s.records[id]; r != nil {
		r.edits = append(r.edits, edit{at, w})
		s.renew(r)
	}
}

// Deleted notes that the controller deleted an ENI.
func (s *Store) Deleted(at time.Time, id string) {
	if r := s.records[id]; r != nil {
		r.deleted = at
		s.renew(r)
	}
}

// ENI returns one ENI.
func (s *Store) ENI(id string) (vpc.Interface, bool) {
	r := s.records[id]
	if r == nil || !r.deleted.IsZero() {
		return vpc.Interface{}, false
	}
	return *r.now, true
}

// Slot returns the ENIs of a slot, by id, and the begin of the last look for them; zero before the first.
func (s *Store) Slot(slot string) ([]vpc.Interface, time.Time) {
	at := s.looked[slot]
	if s.listed.After(at) {
		at = s.listed
	}
	return s.list(s.slots[slot]), at
}

// Instance returns the ENIs that are attached to an instance, by id, and the begin of the last look for them; zero before the first.
func (s *Store) Instance(instance string) ([]vpc.Interface, time.Time) {
	return s.list(s.attached[instance]), s.read[instance]
}

// Owned calls yield with each ENI that has a slot, in no order.
func (s *Store) Owned(yield func(vpc.Interface) bool) {
	for _, r := range s.records {
		if s.slot(r) != "" && r.deleted.IsZero() && !yield(*r.now) {
			return
		}
	}
}

func (s *Store) list(of []string) []vpc.Interface {
	out := make([]vpc.Interface, 0, len(of))
	for _, id := range of {
		out = append(out, *s.records[id].now)
	}
	slices.SortFunc(out, func(a, b vpc.Interface) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (s *Store) slot(r *record) string {
	if r.now == nil {
		return ""
	}
	return r.now.Tags[slots.TagSlot]
}

// renew computes r.now, and its places in the indexes.
func (s *Store) renew(r *record) {
	s.unlink(r)
	r.now = r.seen
	if len(r.edits) > 0 {
		r.now = new(*r.seen)
		if a := r.seen.Attachment; a != nil {
			r.now.Attachment = new(*a)
		}
		for _, e := range r.edits {
			e.apply(r.now)
		}
	}
	if !r.deleted.IsZero() {
		return
	}
	link(s.slots, s.slot(r), r.now.ID)
	if a := r.now.Attachment; a != nil {
		link(s.attached, a.Instance, r.now.ID)
	}
}

func (s *Store) unlink(r *record) {
	if r.now == nil {
		return
	}
	unlink(s.slots, s.slot(r), r.now.ID)
	if a := r.now.Attachment; a != nil {
		unlink(s.attached, a.Instance, r.now.ID)
	}
}

func link(index map[string][]string, key, id string) {
	if key != "" && !slices.Contains(index[key], id) {
		index[key] = append(index[key], id)
	}
}

func unlink(index map[string][]string, key, id string) {
	left := slices.DeleteFunc(index[key], func(other string) bool { return other == id })
	if len(left) == 0 {
		delete(index, key)
	} else {
		index[key] = left
	}
}

// trim drops the parts that nobody asks for: the addresses of foreign ENIs, and most tags of them and of the ENIs with a slot.
func trim(v vpc.Interface) vpc.Interface {
	ours := v.Tags[slots.TagSlot] != ""
	if !ours && v.Tags[vpc.NodeENITag] != "" {
		return v
	}
	var tags map[string]string
	for k, t := range v.Tags {
		keep := k == slots.TagName && !ours || ours && (k == slots.TagNode || k == vpc.NodeENITag)
		if keep || k == slots.TagNoManage || strings.HasPrefix(k, slots.TagPrefix) {
			if tags == nil {
				tags = map[string]string{}
			}
			tags[k] = t
		}
	}
	v.Tags = tags
	if !ours {
		v.Prefixes, v.Addresses = nil, nil
	}
	return v
}

// NotFound notes that EC2 does not know the ENI.
func NotFound(err error) bool {
	var e *vpc.EC2Error
	return errors.As(err, &e) && e.Code == "InvalidNetworkInterfaceID.NotFound"
}
