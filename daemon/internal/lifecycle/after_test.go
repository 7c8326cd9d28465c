package lifecycle

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

func TestWay(t *testing.T) {
	c := ready()
	there := c.o.Interfaces
	e := *c.eni()
	e.Attachment = &vpc.Attachment{ID: "at-1", Instance: "i-1", Status: "attaching"}
	attaching := []vpc.Interface{e}
	c.none()
	c.o.LookedAt = time.Time{}
	for _, part := range []struct {
		name   string
		at     time.Duration
		change func()
		want   string
		phase  Phase
	}{
		{"made in three calls", 0, func() {}, "LookUp Store Create Attach SetTermination", Attaching},
		{"asked after half a second", time.Second / 2, func() { c.o.Interfaces = attaching }, "Describe", Attaching},
		{"attached", time.Second, func() { c.o.Interfaces, c.o.LookedAt = there, t0.Add(time.Second) }, "", Attached},
		{"ready", 2 * time.Second, func() { c.o.Node.Device = "ready" }, "", Ready},
		{"other groups", time.Minute, func() { c.s.Groups = []string{"sg-2"} }, "SetGroups", Ready},
		{"an answer from before", time.Minute, func() { c.o.LookedAt = t0.Add(time.Minute) }, "", Ready},
		{"source-dest-check", 2 * time.Minute, func() { c.s.Options.SourceDestCheck = new(false) }, "SetSourceDestCheck", Ready},
		{"not wanted", 3 * time.Minute, func() { c.o.Wanted = false }, "Store", Draining},
		{"released", 4 * time.Minute, func() { c.o.Node.Released = true }, "Detach", Detaching},
		{"detached", 5 * time.Minute, func() {
			e := *c.eni()
			e.Attachment, e.Status = nil, "available"
			c.o.Interfaces = []vpc.Interface{e}
		}, "Delete Drop", Deleting},
	} {
		part.change()
		got := c.playTo(t, part.at, part.phase)
		if got != part.want {
			t.Errorf("%s: %q, want %q", part.name, got, part.want)
		}
	}
	if diff := cmp.Diff(Memory{Attempt: 1}, c.m, cmp.AllowUnexported(Memory{}, own{}, plight{}, suspect{})); diff != "" {
		t.Errorf("after the end (-want +got):\n%s", diff)
	}
}

// playTo plays at a time, and stops at Drop.
func (c *scene) playTo(t *testing.T, at time.Duration, phase Phase) string {
	t.Helper()
	now := t0.Add(at)
	var done []string
	for range 20 {
		st := Next(&c.s, c.o, c.m, now)
		if st.Do == Drop {
			done = append(done, "Drop")
			c.m = After(c.m, st, Result{}, now)
			return strings.Join(done, " ")
		}
		if st.Do == Wait {
			c.m = After(c.m, st, Result{}, now)
			if st.Phase != phase {
				t.Errorf("it waits as %s %s, want %s", st.Phase, st.Reason, phase)
			}
			return strings.Join(done, " ")
		}
		c.one(st, now)
		done = append(done, st.Do.String())
	}
	t.Fatalf("no end: %v", done)
	return ""
}

func (c *scene) one(st Step, now time.Time) {
	var r Result
	switch st.Do { //nolint:exhaustive // the others have no answer
	case LookUp:
		c.o.LookedAt = now
	case Create:
		r.Interface = &vpc.Interface{ID: "eni-1", SubnetID: "subnet-1", Status: "pending", Groups: c.s.Groups, SourceDestCheck: true, Tags: slots.Tags(c.s, "c")}
	case Attach:
		r.Attachment = "at-1"
	case Describe:
		r.Interface = c.eni()
	}
	c.m = After(c.m, st, r, now)
}

func TestStored(t *testing.T) {
	st := Step{Do: Store, Phase: Creating, note: note{attempt: 3, request: "r"}}
	before := Memory{Attempt: 2, Phase: Wanted, mismatch: t0}
	if m := After(before, st, Result{}, t0); m.Attempt != 3 || m.Request != "r" || m.Phase != Creating || !m.mismatch.IsZero() {
		t.Errorf("stored: %+v", m)
	}
	if m := After(before, st, Result{Err: errors.New("conflict")},
		t0); m.Attempt != 2 || m.Request != "" || m.mismatch.IsZero() || m.RetryAt.Sub(t0) != time.Second {
		t.Errorf("not stored: %+v", m)
	}
	st.note.attempt = 2
	if m := After(before, st, Result{}, t0); m.mismatch.IsZero() {
		t.Error("the same attempt, and no mismatch any more")
	}
}

func TestDrainingSince(t *testing.T) {
	store := Step{Do: Store, Phase: Draining, note: note{draining: true}}
	if m := After(Memory{}, store, Result{Err: errors.New("conflict")}, t0); !m.drainingSince.IsZero() {
		t.Error("it drains, and nobody was told")
	}
	m := After(Memory{}, store, Result{}, t0)
	if !m.drainingSince.Equal(t0) {
		t.Errorf("since %v", m.drainingSince)
	}
	wait := Step{Phase: Draining, note: note{draining: true}}
	if again := After(m, wait, Result{}, t0.Add(time.Hour)); !again.drainingSince.Equal(t0) {
		t.Errorf("since %v", again.drainingSince)
	}
	wait.note.lost = true
	if lost := After(m, wait, Result{}, t0.Add(time.Hour)); !lost.Found || !lost.drainingSince.Equal(t0) {
		t.Errorf("lost: %+v", lost)
	}
	store.note.lost = true
	if again := After(m, store, Result{}, t0.Add(time.Hour)); again.drainingSince.Equal(t0) {
		t.Error("a new object, and the old time")
	}
	if back := After(m, Step{Phase: Attached}, Result{}, t0); !back.drainingSince.IsZero() {
		t.Error("it is wanted again, and drains")
	}
}

func TestASightEndsTheAbsence(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*scene)
		step   Action
		err    error
		want   bool
	}{
		{name: "a later list shows it", step: Wait},
		{name: "an earlier list", change: func(c *scene) { c.m.missingSince = t0 }, step: Wait, want: true},
		{name: "it can be changed", change: func(c *scene) { c.m.missingSince, c.s.Groups = t0, nil }, step: SetGroups},
		{name: "it cannot", change: func(c *scene) { c.m.missingSince, c.s.Groups = t0, nil }, step: SetGroups, err: errors.New("not sent"), want: true},
	} {
		c := ready()
		c.m.missingSince = t0.Add(-time.Hour)
		if tt.change != nil {
			tt.change(c)
		}
		st := Next(&c.s, c.o, c.m, t0)
		if m := After(c.m, st, Result{Err: tt.err}, t0); st.Do != tt.step || m.missingSince.IsZero() == tt.want {
			t.Errorf("%s: %v, missing since %v", tt.name, st.Do, m.missingSince)
		}
	}
}

func TestDetachingSince(t *testing.T) {
	seen := Step{Phase: Detaching, note: note{detaching: true}}
	m := After(Memory{}, seen, Result{}, t0)
	m = After(m, Step{Do: Describe, Phase: Detaching, ENI: "eni-1"}, Result{}, t0.Add(time.Second))
	m = After(m, seen, Result{}, t0.Add(2*time.Second))
	if !m.detachingSince.Equal(t0) {
		t.Errorf("since %v", m.detachingSince)
	}
	for _, look := range []Action{LookUp, Describe, ReadInstance, ReadNode} {
		m = After(m, Step{Do: look, Phase: Detaching, ENI: "eni-1"}, Result{}, t0.Add(3*time.Second))
	}
	if !m.detachingSince.Equal(t0) {
		t.Errorf("after looks since %v", m.detachingSince)
	}
	m = After(m, Step{Do: ForceDetach, Phase: Detaching}, Result{}, t0.Add(time.Minute))
	if !m.detachingSince.Equal(t0) {
		t.Errorf("since %v", m.detachingSince)
	}
	if m = After(m, Step{Phase: Attached}, Result{}, t0); !m.detachingSince.IsZero() {
		t.Error("it is attached")
	}
	if m = After(m, Step{Do: Detach, Phase: Detaching}, Result{}, t0); !m.detachingSince.Equal(t0) {
		t.Errorf("since %v", m.detachingSince)
	}
}

// TestPolls: looks in a phase are counted, so that they become more rare.
func TestPolls(t *testing.T) {
	m := Memory{Phase: Attaching}
	for i, look := range []Action{Describe, ReadNode, Describe} {
		if m = After(m, Step{Do: look, Phase: Attaching, Slot: new(slot())}, Result{}, t0); m.polls != i+1 {
			t.Errorf("after %d looks: %d", i+1, m.polls)
		}
	}
	if m = After(m, Step{Phase: Attached, Slot: new(slot())}, Result{}, t0); m.polls != 0 {
		t.Errorf("in another phase: %d", m.polls)
	}
}

// TestHolders: a failed Attach names the ENIs of the instance.
func TestHolders(t *testing.T) {
	c := ready()
	c.free()
	c.o.Holders = "eni-9 (other)"
	st := Next(&c.s, c.o, c.m, t0)
	m := After(c.m, st, Result{Err: says(vpc.EC2Limit, "AttachmentLimitExceeded", "x")}, t0)
	if st.Do != Attach || !strings.Contains(m.Message, "eni-9 (other)") {
		t.Errorf("%v: %q", st.Do, m.Message)
	}
}

func TestFound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*scene)
		want   bool
	}{
		{"attached, and no entry", func(c *scene) { c.m = Memory{} }, true},
		{"attached, and the attempt had ended", func(c *scene) { c.m = Memory{Attempt: 1} }, true},
		{"the answer was lost", func(c *scene) { c.m.ENI = "" }, false},
		{"free", func(c *scene) { c.free(); c.m = Memory{} }, false},
	} {
		c := ready()
		tt.change(c)
		st := Next(&c.s, c.o, c.m, t0)
		m := After(c.m, st, Result{}, t0)
		if m.ENI != "eni-1" || m.Found != tt.want {
			t.Errorf("%s: %+v", tt.name, m)
		}
	}
}

func TestNudge(t *testing.T) {
	if m := (Memory{RetryAt: t0, Failures: 3}).Nudge(); !m.RetryAt.IsZero() || m.Failures != 3 {
		t.Errorf("%+v", m)
	}
}

func TestEntry(t *testing.T) {
	c := ready()
	c.eni().MAC, c.eni().Addresses = "02:00:00:00:00:01", []netip.Addr{netip.MustParseAddr("10.0.1.5")}
	c.eni().Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.1.16/28")}
	c.s.NodeENI.Generation, c.s.Options.MTU, c.s.Options.EnableDPDK, c.s.Options.DPDKDriver = 4, 9001, true, "vfio-pci"
	c.s.Options.DPDKPCIAddress, c.s.Options.DPDKResourceName, c.s.Options.AllowedNamespaces = "0000:00:07.0", "a/b", new("x")
	c.m.Phase, c.m.Reason, c.m.Message, c.m.Found, c.m.Request = Ready, "R", "M", true, "r"
	c.eni().Attachment.DeviceIndex = 9
	want := v1alpha1.AttachmentEntry{
		Slot: "0123456789abcdef", NodeENI: v1alpha1.NodeENIReference{Name: "e", UID: "u",
			Generation: 4}, InstanceID: "i-1", SubnetID: "subnet-1", SubnetCIDR: "10.0.1.0/24",
		ENIID: "eni-1", AttachmentID: "at-1", MAC: "02:00:00:00:00:01", Addresses: []string{"10.0.1.5"}, Prefixes: []string{"10.0.1.16/28"},
		NetworkCard: 3, DeviceIndex: 9,
		MTU: 9001, EnableDPDK: true, DPDKDriver: "vfio-pci", DPDKPCIAddress: "0000:00:07.0", ResourceName: "a/b", AllowedNamespaces: new("x"), Wanted: "Attached",
		Attempt: 1, Request: "r", Phase: "Ready", Reason: "R", Message: "M", Found: true,
	}
	got := Entry(v1alpha1.AttachmentEntry{}, c.s, c.o, c.m)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m := Restore(got, t0)
	if m.Attempt != 1 || m.Request != "r" || m.ENI != "eni-1" || m.AttachmentID != "at-1" || m.Phase != Ready || m.Reason != "R" || m.Message != "M" || !m.Found ||
		!m.createdAt.Equal(t0) || !m.settled.Equal(t0.Add(30*time.Second)) || !m.drainingSince.IsZero() {
		t.Errorf("restored: %+v", m)
	}

	// Nothing is known of the ENI now; then another has come.
	c.o.Interfaces, c.o.Wanted = nil, false
	want.Wanted, want.Release, want.DeviceIndex = "Released", 1, 2
	old := got
	if diff := cmp.Diff(want, Entry(old, c.s, c.o, c.m)); diff != "" {
		t.Errorf("not seen (-want +got):\n%s", diff)
	}
	if m := Restore(Entry(old, c.s, c.o, c.m), t0); !m.drainingSince.Equal(t0) {
		t.Error("restored, it does not drain")
	}
	c.m.ENI, c.m.own = "eni-2", &own{created: &vpc.Interface{ID: "eni-2", MAC: "02:00:00:00:00:02"}}
	if e := Entry(old, c.s, c.o, c.m); e.MAC != "02:00:00:00:00:02" || e.Addresses != nil || e.Prefixes != nil {
		t.Errorf("another: %+v", e)
	}
	c.m.own.created.ID = "eni-3"
	if e := Entry(old, c.s, c.o, c.m); e.MAC != "" || e.Addresses != nil {
		t.Errorf("of an unknown one: %+v", e)
	}
}

func TestEntryOfAnExternalENI(t *testing.T) {
	c := ready()
	c.o.External, c.o.Interfaces = c.eni(), nil
	c.m = Memory{Phase: External}
	e := Entry(v1alpha1.AttachmentEntry{}, c.s, c.o, c.m)
	if e.ENIID != "eni-1" || e.AttachmentID != "at-1" || e.Phase != "External" || e.Attempt != 0 {
		t.Errorf("%+v", e)
	}
	if m := Restore(e, t0); m.ENI != "" || m.AttachmentID != "" {
		t.Errorf("restored, it is ours: %+v", m)
	}
	c.m.Phase = Wanted
	if e := Entry(e, c.s, c.o, c.m); e.ENIID != "" || e.MAC != "" {
		t.Errorf("%+v", e)
	}
	c.m.Phase, c.o.External = External, nil
	if e := Entry(e, c.s, c.o, c.m); e.ENIID != "" {
		t.Errorf("%+v", e)
	}
	// Without a plan, as after an hour without EC2, the daemon must not lose a device that pods may have. It stays somebody else's.
	for _, c.m.Phase = range []Phase{External, Wanted} {
		c.o.PlannedAt = time.Time{}
		if now := Entry(e, c.s, c.o, c.m); now.ENIID != "eni-1" || now.Phase != "External" || now.AttachmentID != "at-1" || now.Wanted != "Attached" {
			t.Errorf("without a plan: %+v", now)
		}
		c.o.Wanted = false
		if now := Entry(e, c.s, c.o, c.m); now.ENIID != "" {
			t.Errorf("nobody wants it: %+v", now)
		}
		c.o.Wanted = true
	}
}

// TestEntryWantedWhileReleased: no pod may get a device that EC2 may be taking away.
func TestEntryWantedWhileReleased(t *testing.T) {
	c := ready()
	old := v1alpha1.AttachmentEntry{ENIID: c.m.ENI, Wanted: v1alpha1.WantedReleased}
	for _, c.m.Phase = range []Phase{Draining, Released, Detaching} {
		if e := Entry(old, c.s, c.o, c.m); e.Wanted != v1alpha1.WantedReleased {
			t.Errorf("%s: %+v", c.m.Phase, e)
		}
	}
	for _, c.m.Phase = range []Phase{Created, Attaching, Attached} {
		if e := Entry(old, c.s, c.o, c.m); e.Wanted != v1alpha1.WantedAttached {
			t.Errorf("%s: %+v", c.m.Phase, e)
		}
	}
	c.m.Phase, old.Wanted = Detaching, v1alpha1.WantedAttached
	if e := Entry(old, c.s, c.o, c.m); e.Wanted != v1alpha1.WantedAttached {
		t.Errorf("somebody else detaches it: %+v", e)
	}
}

func TestActions(t *testing.T) {
	calls := map[Action]string{
		Wait: "", LookUp: "DescribeNetworkInterfaces", Describe: "DescribeNetworkInterfaces", ReadInstance: "DescribeInstances",
		ReadNode: "DescribeNetworkInterfaces", Store: "",
		Create: "CreateNetworkInterface", Attach: "AttachNetworkInterface", SetTermination: "ModifyNetworkInterfaceAttribute",
		SetGroups:          "ModifyNetworkInterfaceAttribute",
		SetSourceDestCheck: "ModifyNetworkInterfaceAttribute", Tag: "CreateTags", Detach: "DetachNetworkInterface", ForceDetach: "DetachNetworkInterface",
		Delete: "DeleteNetworkInterface", Drop: "",
	}
	for a := Wait; a <= Drop; a++ {
		call, ok := calls[a]
		if !ok || a.Call() != call || a.String() == "" || a.Mutates() != (call != "" && !strings.HasPrefix(call, "Describe")) {
			t.Errorf("%d %v: %q, mutates %v", a, a, a.Call(), a.Mutates())
		}
	}
}
