package fleet

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// writer is a Fleet that leads and knows a Node, a NodeENI and, with state, an ENINodeState.
func writer(t *testing.T, state bool) (*apiServer, *Fleet) {
	t.Helper()
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", aNode)
	s.put(pathNodeENIs, "a", aNodeENI)
	if state {
		s.put(pathStates, "node-a", aState)
	}
	f := run(t, s.serve())
	synced(t, f)
	leader(f)
	return s, f
}

func specOf(slots ...string) v1alpha1.ENINodeStateSpec {
	spec := v1alpha1.ENINodeStateSpec{Protocol: 1}
	for _, slot := range slots {
		spec.Attachments = append(spec.Attachments, v1alpha1.AttachmentEntry{Slot: slot, Wanted: v1alpha1.WantedAttached})
	}
	return spec
}

func slotsOf(o v1alpha1.ENINodeState) []string {
	slots := []string{}
	for _, a := range o.Spec.Attachments {
		slots = append(slots, a.Slot)
	}
	return slots
}

func TestWriteSpecMakesTheObject(t *testing.T) {
	s, f := writer(t, false)
	if err := f.WriteSpec(t.Context(), "node-a", nil, specOf("s1")); err != nil {
		t.Fatal(err)
	}
	o := stored[v1alpha1.ENINodeState](s, pathStates, "node-a")
	if len(o.OwnerReferences) != 1 || string(o.OwnerReferences[0].UID) != f.Node("node-a").UID || o.OwnerReferences[0].Kind != "Node" || slotsOf(o)[0] != "s1" {
		t.Errorf("object %+v", o)
	}
	if own := f.State("node-a"); own == nil || own.Is.Owner != f.Node("node-a").UID || own.Is.Reported {
		t.Errorf("an own write is not known at once: %+v", own)
	}
	if err := f.WriteSpec(t.Context(), "node-a", nil, specOf("s1")); !errors.Is(err, ErrConflict) {
		t.Errorf("the object is made twice: %v", err)
	}
	if err := f.WriteSpec(t.Context(), "node-b", nil, specOf("s1")); !errors.Is(err, ErrGone) {
		t.Errorf("an object without Node is made: %v", err)
	}
}

// TestWriteSpecKeepsTheRest: metadata and status stay, a changed status is no conflict, a changed spec is one.
func TestWriteSpecKeepsTheRest(t *testing.T) {
	s, f := writer(t, true)
	seen := f.State("node-a")
	s.do(func() { // unseen yet, perhaps: the daemon reports
		before := s.objects[pathStates]["node-a"]
		s.store(pathStates, "node-a", merge(before, object{"status": object{"problemCount": float64(7)}}))
	})
	if err := f.WriteSpec(t.Context(), "node-a", seen, specOf("s1", "s2")); err != nil {
		t.Fatal(err)
	}
	after := f.State("node-a")
	if err := f.WriteSpec(t.Context(), "node-a", after, specOf()); err != nil {
		t.Fatal(err)
	}
	o := stored[v1alpha1.ENINodeState](s, pathStates, "node-a")
	if o.Status.ProblemCount != 7 || len(o.Status.Devices) != 1 || o.Labels["people"] != "theirs" || len(o.OwnerReferences) != 1 || len(slotsOf(o)) != 0 ||
		o.Spec.Protocol != 1 {
		t.Errorf("object %+v", o)
	}
	if err := f.WriteSpec(t.Context(), "node-a", after, specOf("s3")); !errors.Is(err, ErrConflict) {
		t.Errorf("a spec that was not seen is overwritten: %v", err)
	}
	seen = f.State("node-a")
	s.do(func() { // another controller
		before := s.objects[pathStates]["node-a"]
		s.store(pathStates, "node-a", merge(before, object{"spec": object{"protocol": float64(9)}}))
	})
	if err := f.WriteSpec(t.Context(), "node-a", seen, specOf("s4")); !errors.Is(err, ErrConflict) {
		t.Errorf("another controller's spec is overwritten: %v", err)
	}
}

// TestReleasedIsNotWrittenOver: whoever wrote the spec has not seen the daemon's newest status.released, which may answer an earlier spec.
func TestReleasedIsNotWrittenOver(t *testing.T) {
	s, f := writer(t, true)
	seen := f.State("node-a")
	s.do(func() {
		before := s.objects[pathStates]["node-a"]
		s.store(pathStates, "node-a", merge(before, object{"status": object{"released": []any{object{"slot": "s1", "eniID": "eni-00000001"}}}}))
	})
	if err := f.Confirm(t.Context(), "node-a", seen); !errors.Is(err, ErrConflict) {
		t.Errorf("an older status.released is confirmed: %v", err)
	}
	if err := f.WriteSpec(t.Context(), "node-a", seen, specOf("s1")); !errors.Is(err, ErrConflict) {
		t.Errorf("the spec is written upon a status.released that was not seen: %v", err)
	}
}

func TestConfirm(t *testing.T) {
	s, f := writer(t, true)
	seen := f.State("node-a")
	check := func(what, node string, seen *Object[State], want error) {
		t.Helper()
		if err := f.Confirm(t.Context(), node, seen); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	check("as seen", "node-a", seen, nil)
	check("none was seen", "node-a", nil, ErrConflict)
	check("there is none, as seen", "node-b", nil, nil)
	check("it is gone", "node-b", seen, ErrConflict)
	s.do(func() {
		s.store(pathStates, "node-a", merge(s.objects[pathStates]["node-a"], object{"spec": object{"protocol": float64(9)}}))
	})
	check("another spec", "node-a", seen, ErrConflict)
}

// TestWritesOfNodeENI: each changes its own part only, and only of the version that was seen.
func TestWritesOfNodeENI(t *testing.T) {
	s, f := writer(t, false)
	first := f.NodeENI("a")
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	do("add finalizer", f.AddFinalizer(t.Context(), f.NodeENI("a")))
	do("add finalizer again", f.AddFinalizer(t.Context(), f.NodeENI("a")))
	do("write status", f.WriteStatus(t.Context(), f.NodeENI("a"), []v1alpha1.ENIAttachment{{NodeID: "node-a", ENIID: "eni-1"}}))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	do("annotate", f.SetCleanupStart(t.Context(), f.NodeENI("a"), at))
	do("annotate again", f.SetCleanupStart(t.Context(), f.NodeENI("a"), at.Add(time.Hour)))
	o := stored[v1alpha1.NodeENI](s, pathNodeENIs, "a")
	if diff := cmp.Diff([]string{"other/finalizer", Finalizer}, o.Finalizers); diff != "" {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
	if o.Spec.SubnetID != "subnet-1" || len(o.Status.Attachments) != 1 || o.Annotations[CleanupStart] != "2026-01-02T03:04:05Z" || len(o.Annotations) != 3 ||
		o.Generation != 1 {
		t.Errorf("NodeENI %+v", o)
	}
	for what, err := range map[string]error{
		"status": f.WriteStatus(t.Context(), first, nil), "finalizer": f.AddFinalizer(t.Context(), first), "annotation": f.SetCleanupStart(t.Context(), first, at),
	} {
		if !errors.Is(err, ErrConflict) {
			t.Errorf("%s of a version that was replaced: %v", what, err)
		}
	}
	do("remove finalizer", f.RemoveFinalizer(t.Context(), f.NodeENI("a")))
	if o := stored[v1alpha1.NodeENI](s, pathNodeENIs, "a"); len(o.Finalizers) != 1 || len(o.Status.Attachments) != 1 {
		t.Errorf("NodeENI %+v", o)
	}
	do("remove finalizer again", f.RemoveFinalizer(t.Context(), f.NodeENI("a")))
	if want := 4; len(s.calls) != want+3 {
		t.Errorf("%d writes, want %d: %v", len(s.calls), want+3, s.calls)
	}
	s.remove(pathNodeENIs, "a")
	if err := f.RemoveFinalizer(t.Context(), &Object[v1alpha1.NodeENI]{Name: "a"}); err != nil {
		t.Errorf("remove the finalizer of a NodeENI that is gone: %v", err)
	}
}

func TestDeleteState(t *testing.T) {
	_, f := writer(t, true)
	uid := f.State("node-a").UID
	if err := f.DeleteState(t.Context(), "node-a", "another"); !errors.Is(err, ErrConflict) || f.State("node-a") == nil {
		t.Errorf("another object is deleted: %v", err)
	}
	for range 2 {
		if err := f.DeleteState(t.Context(), "node-a", uid); err != nil {
			t.Error(err)
		}
	}
	fakekube.Await(t, "gone", func() bool { return f.State("node-a") == nil })
}

// TestOnlyTheLeaderWrites: without the Lease nothing is sent.
func TestOnlyTheLeaderWrites(t *testing.T) {
	s, f := writer(t, true)
	f.lease.lead(false)
	for what, err := range map[string]error{
		"spec": f.WriteSpec(t.Context(), "node-a", f.State("node-a"), specOf()), "new spec": f.WriteSpec(t.Context(), "node-a", nil, specOf()),
		"status": f.WriteStatus(t.Context(), f.NodeENI("a"), nil), "finalizer": f.AddFinalizer(t.Context(), f.NodeENI("a")),
		"annotation": f.SetCleanupStart(t.Context(), f.NodeENI("a"), time.Now()), "delete": f.DeleteState(t.Context(), "node-a", f.State("node-a").UID),
	} {
		if !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(s.calls) != 0 {
		t.Errorf("sent: %v", s.calls)
	}
}

// TestTypedErrors: the caller can tell answers apart.
func TestTypedErrors(t *testing.T) {
	s, f := writer(t, true)
	for code, want := range map[int]error{
		http.StatusForbidden: ErrForbidden, http.StatusUnprocessableEntity: ErrRefused, http.StatusNotFound: ErrGone, http.StatusConflict: ErrConflict,
	} {
		s.do(func() {
			s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					fakekube.Refuse(w, code)
				}
				return r.Method == http.MethodPatch
			}
		})
		if err := f.WriteSpec(t.Context(), "node-a", f.State("node-a"), specOf()); !errors.Is(err, want) {
			t.Errorf("%d: %v", code, err)
		}
	}
}
