package fakeec2

import (
	"slices"
	"testing"
	"time"
)

func TestLifeOfAnInstance(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.LaunchTakes, c.StopTakes, c.TerminateTakes = time.Minute, 2*time.Minute, 3*time.Minute
	})
	w.Launch(Instance{ID: "i-7", Type: "m5.large", SubnetID: "subnet-1"})
	state := func(want string) {
		t.Helper()
		if got := w.InstanceState("i-7"); got != want {
			t.Errorf("it is %q, want %q", got, want)
		}
	}
	state("pending")
	kept, gone := w.create("", "subnet-1"), w.create("", "subnet-1")
	_, err := w.attach(kept, "i-7", 1, 0)
	w.want(err, "IncorrectState")
	w.pass(time.Minute)
	state("running")
	_, err = w.attach(kept, "i-7", 1, 0)
	w.want(err, "")
	_, err = w.attach(gone, "i-7", 2, 0)
	w.want(err, "")
	w.Change(gone, func(e *ENI) { e.DeleteOnTermination = true })
	w.StopInstance("i-7")
	state("stopping")
	w.pass(2 * time.Minute)
	state("stopped")
	w.StartInstance("i-7")
	state("pending")
	w.Terminate("i-7")
	state("shutting-down")
	if e := w.ENI(kept); e.Instance != "i-7" {
		t.Errorf("while it is shutting down: %+v", e)
	}
	w.pass(time.Minute)
	state("shutting-down") // the start is over
	w.pass(2 * time.Minute)
	state("terminated")
	if e := w.ENI(kept); e.Instance != "" || !e.Deleted.IsZero() || e.Status() != "available" {
		t.Errorf("kept: %+v", e)
	}
	if e := w.ENI(gone); e.Deleted != w.now {
		t.Errorf("gone: %+v", e)
	}
	if found, err := w.describe("attachment.instance-id=i-7"); err != nil || len(found) != 0 {
		t.Errorf("its ENIs: %v, %v", found, err)
	}
	w.pass(time.Hour)
	state("")
	w.Launch(Instance{ID: "i-8", Type: "m5.large", SubnetID: "subnet-1"})
	kept = w.create("", "subnet-1")
	w.pass(time.Minute)
	_, err = w.attach(kept, "i-8", 1, 0)
	w.want(err, "")
	w.Terminate("i-8")
	w.Forget("i-8")
	if e := w.ENI(kept); e.Status() != "available" {
		t.Errorf("the ENI of a forgotten instance: %+v", e)
	}
	if got := w.InstanceState("i-8"); got != "" {
		t.Errorf("forgotten: %q", got)
	}
}

// TestTimePassesWhileNobodyLooks: changes come in the order of their times, and those before the look are seen to have come at their times.
func TestTimePassesWhileNobodyLooks(t *testing.T) {
	var changes []string
	w := newWorld(t, func(c *Config) {
		c.AttachTakes, c.DetachTakes, c.Lag = time.Second, 5*time.Second, 4*time.Second
		c.OnChange = func(e ENI) { changes = append(changes, e.AttachmentStatus) }
	})
	eni := w.create("", "subnet-1")
	attachment, err := w.attach(eni, "i-1", 1, 0)
	w.want(err, "")
	w.pass(time.Second)
	w.want(w.detach(attachment, false), "")
	w.pass(8 * time.Second) // detached 3 s ago
	if got, err := w.describe("attachment.attachment-id=" + attachment); err != nil || len(got) != 1 || got[0].Attachment.Status != "detaching" {
		t.Errorf("within the lag: %v, %v", got, err)
	}
	w.pass(time.Second)
	if got, err := w.describe("attachment.attachment-id=" + attachment); err != nil || len(got) != 0 {
		t.Errorf("after the lag: %v, %v", got, err)
	}
	if want := []string{"", "attaching", "attached", "detaching", ""}; len(changes) != len(want) || changes[2] != "attached" || changes[3] != "detaching" {
		t.Errorf("changes %q, want %q", changes, want)
	}
}

func TestOrderOfLateChanges(t *testing.T) {
	var changed []string
	w := newWorld(t, func(c *Config) {
		c.CreateTakes = 2 * time.Second
		c.OnChange = func(e ENI) {
			if !e.Pending {
				changed = append(changed, e.ID)
			}
		}
	})
	var made []string
	for range 20 {
		made = append(made, w.create("", "subnet-1"))
		w.pass(50 * time.Millisecond)
	}
	w.pass(time.Minute)
	w.All()
	if !slices.Equal(changed, made) {
		t.Errorf("changes of %v, want the order %v", changed, made)
	}
}
