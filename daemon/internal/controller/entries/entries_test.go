package entries_test

import (
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/entries"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

type list = []v1alpha1.AttachmentEntry

func pointers(l list) (out []*v1alpha1.AttachmentEntry) {
	for i := range l {
		out = append(out, &l[i])
	}
	return out
}

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
		now := entries.Spec(pointers(tt.now))
		want := entries.Spec(pointers(tt.want))
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
	if e, ok := entries.Of(entries.Spec(pointers(list{other})), other.Slot); !ok || e.Slot != other.Slot {
		t.Errorf("the entry of slot %s: %+v", other.Slot, e)
	}
	if e, ok := entries.Of(empty, other.Slot); ok {
		t.Errorf("the entry of no slot: %+v", e)
	}
}

// TestPublicStays: the status keeps an attached ENI that is another's, or whose slot is on the way to it.
func TestPublicStays(t *testing.T) {
	status := []v1alpha1.ENIAttachment{{
		NodeID: "node-1", InstanceID: "i-1", ENIID: "eni-1", Status: "attached", DeviceIndex: 2, MTU: 9001, DPDKPCIAddress: "0000:00:06.0", DPDKBound: true,
	}}
	entry := func(eni string, phase lifecycle.Phase) []slots.Entry {
		e := v1alpha1.AttachmentEntry{Slot: "a", InstanceID: "i-1", ENIID: eni, Phase: string(phase), DeviceIndex: 1}
		return []slots.Entry{{Node: "node-1", AttachmentEntry: e}}
	}
	ours := map[string]string{slots.TagCluster: "c", slots.TagSlot: "a", vpc.NodeENITag: "blue"}
	on := func(instance string, tags map[string]string) *vpc.Interface {
		return &vpc.Interface{ID: "eni-1", Tags: tags, Attachment: &vpc.Attachment{Instance: instance}}
	}
	for name, tt := range map[string]struct {
		list  []slots.Entry
		eni   *vpc.Interface
		adopt bool
		stays bool
	}{
		"the public controller's":                     {nil, on("i-1", map[string]string{vpc.NodeENITag: "blue"}), false, true},
		"another tag":                                 {nil, on("i-1", map[string]string{vpc.NodeENITag: "green"}), false, false},
		"another tag, to be adopted":                  {nil, on("i-1", map[string]string{vpc.NodeENITag: "green"}), true, true},
		"somebody else's, which has satisfied a slot": {nil, on("i-1", map[string]string{slots.TagNoManage: "true"}), true, false},
		"ours, of no slot":                            {nil, on("i-1", ours), true, false},
		"gone":                                        {nil, nil, true, false},
		"being adopted":                               {entry("eni-1", lifecycle.Creating), on("i-1", map[string]string{vpc.NodeENITag: "blue"}), true, true},
		"tagged":                                      {entry("eni-1", lifecycle.Creating), on("i-1", ours), true, true},
		"being changed":                               {entry("eni-1", lifecycle.Attaching), on("i-1", ours), false, true},
		"the change is refused":                       {entry("eni-1", lifecycle.Blocked), on("i-1", ours), false, true},
		"the entry is new":                            {entry("", lifecycle.Wanted), on("i-1", ours), false, true},
		"attached elsewhere":                          {entry("eni-1", lifecycle.Blocked), on("i-2", ours), false, false},
		"detached":                                    {entry("eni-1", lifecycle.Created), &vpc.Interface{ID: "eni-1", Tags: ours}, false, false},
		"another took its place":                      {entry("eni-2", lifecycle.Creating), on("i-1", ours), false, false},
		"being deleted":                               {entry("eni-1", lifecycle.Deleting), on("i-1", ours), false, false},
	} {
		list := entries.Public(tt.list, "blue", status, tt.adopt, func(string) (vpc.Interface, bool) {
			if tt.eni == nil {
				return vpc.Interface{}, false
			}
			return *tt.eni, true
		})
		got, _, changed := slots.Status(status, list, time.Now())
		if changed == tt.stays || !tt.stays && len(got) != 0 {
			t.Errorf("%s: the status became %+v", name, got)
		}
	}
}
