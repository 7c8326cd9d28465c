package lifecycle

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// TestNumberOfTheWish: each wish to release has another number, also next to an entry that another leader has stored, and after one without a number.
func TestNumberOfTheWish(t *testing.T) {
	c := ready()
	var e v1alpha1.AttachmentEntry
	for _, step := range []struct {
		wanted        bool
		by            v1alpha1.AttachmentEntry // what another leader has stored
		want, counted int
	}{
		{wanted: true, want: 0}, {want: 1, counted: 1}, {want: 1, counted: 1}, {wanted: true, want: 1}, {want: 2, counted: 2},
		{by: v1alpha1.AttachmentEntry{Wanted: "Attached", Release: 2}, want: 3, counted: 3}, // it has taken the wish back
		{by: v1alpha1.AttachmentEntry{Wanted: "Attached", Release: 1}, want: 3, counted: 3}, // an informer is late
		{by: v1alpha1.AttachmentEntry{Wanted: "Released", Release: 5}, want: 5, counted: 5},
		{wanted: true, by: v1alpha1.AttachmentEntry{Wanted: "Released", Release: 7}, want: 7}, {want: 8, counted: 8},
	} {
		stored := e
		if step.by.Wanted != "" {
			stored = step.by
		}
		e.Release = Number(e, stored)
		c.o.Wanted = step.wanted
		if e = Entry(e, c.s, c.o, c.m); e.Release != step.want {
			t.Fatalf("%+v: number %d", step, e.Release)
		}
		for n := range 10 {
			status := []v1alpha1.ReleasedENI{{Slot: e.Slot, ENIID: e.ENIID, Release: n}}
			if got := Answered(e, e, status); got != (n > 0 && n == step.counted) {
				t.Errorf("%+v: the answer %d counts: %v", step, n, got)
			}
			if stored.Wanted == "Attached" && Answered(e, stored, status) {
				t.Errorf("%+v: the answer %d counts while the stored entry wants the ENI", step, n)
			}
		}
	}
	e.Release = 0 // of an earlier version
	status := []v1alpha1.ReleasedENI{{Slot: e.Slot, ENIID: e.ENIID}}
	if Answered(e, e, status) {
		t.Error("an answer without a number counts")
	}
	if e = Entry(e, c.s, c.o, c.m); e.Release != 1 {
		t.Errorf("a wish without a number gets %d, want 1", e.Release)
	}
	other := []v1alpha1.ReleasedENI{{Slot: e.Slot, ENIID: "eni-other", Release: 1}, {Slot: "other", ENIID: e.ENIID, Release: 1}}
	if Answered(e, e, other) {
		t.Error("an answer for another ENI or slot counts")
	}
}
