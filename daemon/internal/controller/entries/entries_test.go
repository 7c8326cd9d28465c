package entries_test

import (
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/entries"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

type list = []v1alpha1.AttachmentEntry

func TestCompare(t *testing.T) {
	base := v1alpha1.AttachmentEntry{Slot: "b", ENIID: "eni-1", Wanted: "Attached", Phase: "Attaching", Addresses: []string{"10.0.0.9"}}
	with := func(edit func(*v1alpha1.AttachmentEntry)) v1alpha1.AttachmentEntry {
		e := base
		edit(&e)
		return e
	}
	other := v1alpha1.AttachmentEntry{Slot: "a", Wanted: "Attached"}
	for name, tt := range map[string]struct {
		now, want     list
		equal, urgent bool
	}{
		"same":         {list{base}, list{base}, true, false},
		"other order":  {list{other, base}, list{base, other}, true, false},
		"address":      {list{base}, list{with(func(e *v1alpha1.AttachmentEntry) { e.Addresses = nil })}, false, false},
		"attached":     {list{base}, list{with(func(e *v1alpha1.AttachmentEntry) { e.Phase = "Attached" })}, false, true},
		"release":      {list{base}, list{with(func(e *v1alpha1.AttachmentEntry) { e.Wanted = "Released" })}, false, true},
		"new":          {list{base}, list{base, other}, false, true},
		"one is gone":  {list{other, base}, list{base}, false, false},
		"wait message": {list{base}, list{with(func(e *v1alpha1.AttachmentEntry) { e.Message = "later" })}, false, false},
	} {
		now := entries.Spec(tt.now)
		want := entries.Spec(tt.want)
		if got := entries.Equal(&now, want); got != tt.equal {
			t.Errorf("%s: equal %v", name, got)
		}
		if got := entries.Urgent(&now, want); got != tt.urgent {
			t.Errorf("%s: urgent %v", name, got)
		}
		if !entries.Urgent(nil, want) || entries.Equal(nil, want) {
			t.Errorf("%s: without an object: nothing to write at once", name)
		}
	}
	empty := entries.Spec(nil)
	written, fresh := v1alpha1.ENINodeStateSpec{Protocol: v1alpha1.Protocol}, v1alpha1.ENINodeStateSpec{}
	if !entries.Equal(nil, empty) || !entries.Equal(&written, empty) || entries.Equal(&fresh, empty) {
		t.Error("an empty spec is written where there is no object, or not written where an object lacks the protocol")
	}
	spec := entries.Spec(list{other, with(func(e *v1alpha1.AttachmentEntry) { e.Wanted = "Released" })})
	if !entries.WantReleased(spec, "b") || entries.WantReleased(spec, "a") || entries.WantReleased(spec, "c") {
		t.Error("WantReleased")
	}
}

func TestPublicStays(t *testing.T) {
	status := []v1alpha1.ENIAttachment{
		{NodeID: "node-1", ENIID: "eni-1", Status: "attached", DeviceIndex: 2, MTU: 9001}, {NodeID: "node-1", ENIID: "eni-2", Status: "attached"},
		{NodeID: "node-1", ENIID: "eni-3", Status: "attached"}, {NodeID: "node-1", ENIID: "eni-4", Status: "detached"},
	}
	own := []slots.Entry{{Node: "node-1", AttachmentEntry: v1alpha1.AttachmentEntry{Slot: "a", ENIID: "eni-2"}}}
	got := entries.Public(own, status, func(eni string) bool { return eni != "eni-3" })
	if len(got) != 2 || got[1].ENIID != "eni-1" {
		t.Errorf("entries %+v, want our eni-2 and the public eni-1", got)
	}
	if list, _, changed := slots.Status(status[:1], got[1:], time.Now()); changed {
		t.Errorf("the public entry became %+v", list)
	}
	if spec := entries.Spec(list{own[0].AttachmentEntry}); !entries.Has(spec, "a") || entries.Has(spec, "b") {
		t.Error("Has")
	}
}
