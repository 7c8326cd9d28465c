package lifecycle

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

func ids(list []vpc.Interface) []string {
	out := []string{}
	for _, e := range list {
		out = append(out, e.ID)
	}
	return out
}

func leak(id string, change func(*vpc.Interface)) vpc.Interface {
	e := vpc.Interface{ID: id, SubnetID: "subnet-1", Status: "available", Tags: slots.Tags(slot(), "c")}
	e.Tags[slots.TagSlot] = "slot-" + id
	change(&e)
	return e
}

func TestFindLeaks(t *testing.T) {
	w := World{Cluster: "c", Live: map[slots.ID]bool{"live": true}, Held: map[string]bool{"held": true},
		Parking:   map[string]map[string]bool{"u": {"subnet-2": true}},
		Unsure:    map[string]bool{"unread": true, "u": false},
		Instances: map[string]bool{"i-9": true}}
	tag := func(key, value string) func(*vpc.Interface) { return func(e *vpc.Interface) { e.Tags[key] = value } }
	public := func(e *vpc.Interface) {
		e.Tags = map[string]string{slots.TagManagedBy: slots.ManagedBy, vpc.NodeENITag: "e"}
	}
	list := []vpc.Interface{
		leak("z-leak", func(*vpc.Interface) {}),
		leak("a-leak", tag(slots.TagInstance, "i-9")),
		leak("pending", func(e *vpc.Interface) { e.Status = "pending" }),
		leak("attached", func(e *vpc.Interface) { e.Attachment = &vpc.Attachment{} }),
		leak("held", func(*vpc.Interface) {}),
		leak("live", tag(slots.TagSlot, "live")),
		leak("other-cluster", tag(slots.TagCluster, "d")),
		leak("parked", func(e *vpc.Interface) { e.SubnetID = "subnet-2" }),
		leak("parked-of-nobody", func(e *vpc.Interface) { e.SubnetID, e.Tags[slots.TagNodeENI] = "subnet-2", "v" }),
		leak("parked-of-a-node", func(e *vpc.Interface) { e.SubnetID, e.Tags[slots.TagInstance] = "subnet-2", "i-9" }),
		leak("of-an-unread-nodeeni", tag(slots.TagNodeENI, "unread")),
		leak("public", public),
		leak("not-public", func(e *vpc.Interface) { public(e); delete(e.Tags, slots.TagManagedBy) }),
		leak("not-a-nodeeni", func(e *vpc.Interface) { public(e); delete(e.Tags, vpc.NodeENITag) }),
	}
	check := func(name string, l Leaks, deletes ...string) {
		t.Helper()
		if diff := cmp.Diff(deletes, ids(l.Delete), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: delete (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff([]string{"a-leak", "parked-of-a-node", "parked-of-nobody", "public", "z-leak"}, ids(l.Report)); diff != "" {
			t.Errorf("%s: report (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff([]string{"parked"}, ids(l.Parked)); diff != "" {
			t.Errorf("%s: parked (-want +got):\n%s", name, diff)
		}
	}
	first := FindLeaks(list, w, nil, t0)
	check("first", first)
	early := FindLeaks(list, w, first.Seen, t0.Add(10*time.Minute-time.Second))
	check("early", early)
	check("late", FindLeaks(list, w, early.Seen, t0.Add(10*time.Minute)), "a-leak", "parked-of-a-node", "parked-of-nobody", "z-leak")
	check("a new leader", FindLeaks(list, w, nil, t0.Add(time.Hour)))

	// One that was not seen in between begins anew.
	gone := FindLeaks(nil, w, first.Seen, t0.Add(5*time.Minute))
	check("back again", FindLeaks(list, w, gone.Seen, t0.Add(time.Hour)))
}

func TestSweepIsBounded(t *testing.T) {
	var list []vpc.Interface
	for i := range 51 {
		list = append(list, leak(fmt.Sprintf("eni-%02d", i), func(*vpc.Interface) {}))
	}
	first := FindLeaks(list, World{Cluster: "c"}, nil, t0)
	second := FindLeaks(list, World{Cluster: "c"}, first.Seen, t0.Add(time.Hour))
	if len(second.Delete) != 50 || len(second.Report) != 51 || len(second.Seen) != 51 {
		t.Errorf("%d %d %d", len(second.Delete), len(second.Report), len(second.Seen))
	}
}

func TestMoves(t *testing.T) {
	want := func(id string, change func(*slots.Slot)) slots.Slot {
		s := slot()
		s.ID, s.Options.DeleteOnTermination = slots.ID(id), false
		change(&s)
		return s
	}
	parked := []vpc.Interface{
		leak("eni-2", func(*vpc.Interface) {}), leak("eni-1", func(*vpc.Interface) {}), leak("eni-3", func(e *vpc.Interface) { e.SubnetID = "subnet-2" }),
		leak("eni-4", func(e *vpc.Interface) { e.Tags[slots.TagNodeENI] = "v" }),
	}
	wanted := []slots.Slot{
		want("d", func(*slots.Slot) {}), want("c", func(*slots.Slot) {}), want("b", func(*slots.Slot) {}), want("a",
			func(s *slots.Slot) { s.Options.DeleteOnTermination = true }),
		want("e", func(s *slots.Slot) { s.Subnet = "subnet-3" }), want("f", func(s *slots.Slot) { s.Subnet = "subnet-2" }),
	}
	got := map[slots.ID]string{}
	for id, e := range Moves(parked, wanted) {
		got[id] = e.ID
	}
	if diff := cmp.Diff(map[slots.ID]string{"b": "eni-1", "c": "eni-2", "f": "eni-3"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
