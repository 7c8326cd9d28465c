package enis_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/enis"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

var t0 = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func at(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }

func eni(id, slot string) vpc.Interface {
	return vpc.Interface{ID: id, Status: enis.Available, Tags: map[string]string{slots.TagSlot: slot}}
}

func on(v vpc.Interface, attachment, instance, status string) vpc.Interface {
	v.Status = enis.InUse
	v.Attachment = &vpc.Attachment{ID: attachment, Instance: instance, Status: status, DeviceIndex: 1}
	return v
}

func TestCreatedOutlivesLag(t *testing.T) {
	s := enis.New()
	s.SeeAll(at(0), nil)
	s.Created(at(1), eni("eni-1", "a"))
	s.SeeSlot(at(2), "a", nil)
	s.SeeAll(at(3), nil)
	s.Missing(at(4), "eni-1")
	if list, looked := s.Slot("a"); len(list) != 1 || !looked.Equal(at(3)) {
		t.Errorf("within Lag: %v, looked at %v", list, looked)
	}
	s.Missing(at(31), "eni-1")
	if list, _ := s.Slot("a"); len(list) != 0 {
		t.Errorf("after Lag: %v", list)
	}
}

func TestWritesCoverDescriptions(t *testing.T) {
	s := enis.New()
	s.See(at(0), eni("eni-1", "a"))
	s.Wrote(at(10), "eni-1", enis.Attach("att-1", vpc.Joining{Instance: "i-1", DeviceIndex: 2}))
	s.Wrote(at(11), "eni-1", enis.DeleteOnTermination("att-1", true))
	s.See(at(12), eni("eni-1", "a")) // lags
	got, _ := s.ENI("eni-1")
	want := vpc.Attachment{ID: "att-1", Instance: "i-1", DeviceIndex: 2, Status: enis.Attaching, DeleteOnTermination: true}
	if got.Attachment == nil || *got.Attachment != want {
		t.Fatalf("attachment %+v, want %+v", got.Attachment, want)
	}
	s.See(at(13), on(eni("eni-1", "a"), "att-1", "i-1", enis.Attached))
	if got, _ = s.ENI("eni-1"); got.Attachment.Status != enis.Attached || !got.Attachment.DeleteOnTermination {
		t.Errorf("newer description: %+v", got.Attachment)
	}
	if list, _ := s.Instance("i-1"); len(list) != 1 {
		t.Errorf("instance has %v", list)
	}
	s.See(at(12), eni("eni-1", "a")) // older than the last
	if got, _ = s.ENI("eni-1"); got.Attachment.Status != enis.Attached {
		t.Errorf("older description counted: %+v", got.Attachment)
	}
	s.See(at(60), eni("eni-1", "a"))
	if got, _ = s.ENI("eni-1"); got.Attachment != nil {
		t.Errorf("after Lag the write still counts: %+v", got.Attachment)
	}
	if list, _ := s.Instance("i-1"); len(list) != 0 {
		t.Errorf("instance still has %v", list)
	}
}

func TestDetachCoversOnlyItsAttachment(t *testing.T) {
	s := enis.New()
	s.See(at(0), on(eni("eni-1", "a"), "att-1", "i-1", enis.Attached))
	s.Wrote(at(1), "eni-1", enis.Detach("att-1"))
	s.See(at(2), on(eni("eni-1", "a"), "att-1", "i-1", enis.Attached))
	if got, _ := s.ENI("eni-1"); got.Attachment.Status != enis.Detaching {
		t.Errorf("attachment %+v", got.Attachment)
	}
	s.See(at(3), on(eni("eni-1", "a"), "att-2", "i-2", enis.Attached))
	if got, _ := s.ENI("eni-1"); got.Attachment.Status != enis.Attached {
		t.Errorf("another attachment %+v", got.Attachment)
	}
}

func TestShownWriteEnds(t *testing.T) {
	s := enis.New()
	s.Created(at(0), eni("eni-1", "a"))
	s.Wrote(at(1), "eni-1", enis.Attach("att-1", vpc.Joining{Instance: "i-1"}))
	s.See(at(2), on(eni("eni-1", "a"), "att-1", "i-1", enis.Attached))
	s.Wrote(at(3), "eni-1", enis.Detach("att-1"))
	s.See(at(4), eni("eni-1", "a"))
	if got, _ := s.ENI("eni-1"); got.Attachment != nil {
		t.Errorf("still attached as %+v", got.Attachment)
	}
}

func TestDeletedHidesLaggingDescriptions(t *testing.T) {
	s := enis.New()
	s.See(at(0), eni("eni-1", "a"))
	s.Deleted(at(1), "eni-1")
	s.See(at(2), eni("eni-1", "a"))
	if list, _ := s.Slot("a"); len(list) != 0 {
		t.Errorf("shown after Delete: %v", list)
	}
	s.Missing(at(3), "eni-1")
	s.See(at(4), eni("eni-1", "a"))
	if _, ok := s.ENI("eni-1"); ok {
		t.Error("shown by a lagging description after NotFound")
	}
	s.See(at(31), eni("eni-1", "a"))
	if list, _ := s.Slot("a"); len(list) != 1 {
		t.Errorf("EC2 still has it after Lag: %v", list)
	}
}

func TestInstanceKeepsOwnedForgetsForeign(t *testing.T) {
	s := enis.New()
	foreign := vpc.Interface{
		ID: "eni-f", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")},
		Tags: map[string]string{"x": "y", "node.k8s.amazonaws.com/no_manage": "true"}}
	s.SeeInstance(at(0), "i-1", []vpc.Interface{on(eni("eni-1", "a"), "att-1", "i-1", enis.Attached), on(foreign, "att-f", "i-1", enis.Attached)})
	list, read := s.Instance("i-1")
	if len(list) != 2 || !read.Equal(at(0)) {
		t.Fatalf("%v, read at %v", list, read)
	}
	if f, _ := s.ENI("eni-f"); len(f.Tags) != 1 || f.Addresses != nil {
		t.Errorf("foreign is not trimmed: %+v", f)
	}
	s.SeeInstance(at(1), "i-1", nil)
	if list, _ = s.Instance("i-1"); len(list) != 1 || list[0].ID != "eni-1" {
		t.Errorf("left %v, want eni-1", list)
	}
	s.SeeAll(at(2), nil)
	if list, _ = s.Instance("i-1"); len(list) != 0 {
		t.Errorf("left %v, want none", list)
	}
}

func TestUnreadableStays(t *testing.T) {
	s := enis.New()
	s.See(at(0), eni("eni-1", "a"))
	s.SeeAll(at(1), []vpc.Interface{{ID: "eni-1", Unreadable: errors.New("odd")}, {ID: "eni-2", Unreadable: errors.New("odd")}})
	if list, _ := s.Slot("a"); len(list) != 1 || list[0].Status != enis.Available || list[0].Unreadable == nil {
		t.Errorf("slot a has %v", list)
	}
	if v, ok := s.ENI("eni-2"); !ok || v.Unreadable == nil {
		t.Errorf("absent although it is only unreadable: %+v", v)
	}
	s.SeeAll(at(2), []vpc.Interface{{Tags: map[string]string{slots.TagSlot: "b"}, Unreadable: errors.New("odd id")}})
	if list, _ := s.Slot("a"); len(list) != 1 {
		t.Errorf("an id that nobody could read has made slot a's absent: %v", list)
	}
	if list, _ := s.Slot("b"); len(list) != 1 || list[0].Unreadable == nil {
		t.Errorf("slot b has %v", list)
	}
	s.SeeAll(at(3), []vpc.Interface{eni("eni-1", "a")})
	if a, _ := s.Slot("a"); len(a) != 1 || a[0].Unreadable != nil {
		t.Errorf("readable again: %v", a)
	}
	if b, _ := s.Slot("b"); len(b) != 0 {
		t.Errorf("slot b still has %v", b)
	}
}

// TestUnreadableIDMayBeAny: a list with an ENI whose id nobody can read makes no other ENI absent.
func TestUnreadableIDMayBeAny(t *testing.T) {
	list := []vpc.Interface{{Unreadable: errors.New("odd id")}}
	for name, look := range map[string]func(*enis.Store){
		"all":         func(s *enis.Store) { s.SeeAll(at(60), list) },
		"a slot":      func(s *enis.Store) { s.SeeSlot(at(60), "a", list) },
		"an instance": func(s *enis.Store) { s.SeeInstance(at(60), "i-1", list) },
		"public ones": func(s *enis.Store) { s.SeePublic(at(60), list) },
	} {
		s := enis.New()
		foreign := vpc.Interface{ID: "eni-2", Attachment: &vpc.Attachment{ID: "eni-attach-2", Instance: "i-1"}}
		public := vpc.Interface{ID: "eni-3", Tags: map[string]string{vpc.NodeENITag: "blue", slots.TagManagedBy: slots.ManagedBy}}
		s.See(at(0), eni("eni-1", "a"), foreign, public)
		look(s)
		for _, id := range []string{"eni-1", "eni-2", "eni-3"} {
			if _, ok := s.ENI(id); !ok {
				t.Errorf("%s: %s has become absent", name, id)
			}
		}
	}
}

func TestPublicOnesThatAreGone(t *testing.T) {
	public := func(id string, more ...string) vpc.Interface {
		v := vpc.Interface{ID: id, Tags: map[string]string{vpc.NodeENITag: "blue", slots.TagManagedBy: slots.ManagedBy}}
		for _, tag := range more {
			v.Tags[tag] = "x"
		}
		return v
	}
	s := enis.New()
	unmanaged := public("eni-4")
	delete(unmanaged.Tags, slots.TagManagedBy)
	s.See(at(0), public("eni-1"), public("eni-2"), public("eni-3", slots.TagSlot), unmanaged)
	s.SeePublic(at(60), []vpc.Interface{public("eni-2"), public("eni-5"), public("eni-6", slots.TagCluster)})
	for id, want := range map[string]bool{"eni-1": false, "eni-2": true, "eni-3": true, "eni-4": true, "eni-5": true, "eni-6": false} {
		if _, ok := s.ENI(id); ok != want {
			t.Errorf("%s: %v", id, ok)
		}
	}
}
