package nodestate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
)

func TestLockOfLiveAndDeadWriters(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	p := start(t, "begin", string(d), "c1", "net1")
	if _, err := d.Lock(atOnce(t), id); !errors.Is(err, ErrBusy) {
		t.Fatalf("Lock of a living writer's intent: %v; want ErrBusy", err)
	}
	if all, bad, err := d.List(); len(all) != 1 || len(bad) > 0 || err != nil {
		t.Fatalf("List beside a living writer = %v, %v, %v; want its intent", all, bad, err)
	}
	if err := d.Discard(id, "boot"); !errors.Is(err, ErrBusy) {
		t.Fatalf("Discard of a living writer's intent: %v; want ErrBusy", err)
	}
	p.kill()
	r, err := d.Lock(soon(t), id)
	if err != nil || r.State != StateIntent {
		t.Fatalf("Lock of a dead writer's record = %+v, %v; want its intent", r, err)
	}
	r.Close()
}

// TestHeir: a program that outlives a killed multi-eni may still have effects, so Lock waits for it. Lock waits neither
// for a process that the program has left behind, nor for a program that does not end in its time.
func TestHeir(t *testing.T) {
	now, err := Uptime()
	if err != nil {
		t.Fatal(err)
	}
	d := AttachmentDir(t.TempDir())
	p := start(t, "beget", string(d), "c1", "net1")
	p.kill()
	if _, err := d.Lock(atOnce(t), id); !errors.Is(err, ErrBusy) {
		t.Errorf("Lock while a program of the dead writer lives: %v; want ErrBusy", err)
	}
	f, err := atomicfile.Open(filepath.Join(string(d), "c1-net1.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &Record{file: f}
	if !r.heirLives(now+heirTime) || r.heirLives(now+heirTime+time.Hour) {
		t.Errorf("the program counts in its time: %t, and after it: %t", r.heirLives(now+heirTime), r.heirLives(now+heirTime+time.Hour))
	}
	if err := p.children.Close(); err != nil { // the program ends
		t.Fatal(err)
	}
	if r, err = d.Lock(soon(t), id); err != nil {
		t.Fatalf("Lock after the program's end: %v", err)
	}
	r.Close()

	for _, how := range []string{"leave", "beget"} {
		d = AttachmentDir(t.TempDir())
		p = start(t, how, string(d), "c1", "net1")
		if how == "beget" {
			p.do("release") // the program has ended, as far as multi-eni knows
		}
		p.kill()
		if r, err = d.Lock(atOnce(t), id); err != nil {
			t.Fatalf("Lock beside what a program has left behind (%s): %v", how, err)
		}
		r.Close()
	}
}

// TestLockWaits has the record change while its lock is waited for.
func TestLockWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		steps []string
		state State
		want  error
	}{
		"given up":             {[]string{"close"}, StateIntent, nil},
		"replaced, given up":   {[]string{"complete", "close"}, StateComplete, nil},
		"replaced twice":       {[]string{"complete", "complete", "close"}, StateComplete, nil},
		"removed":              {[]string{"remove"}, "", fs.ErrNotExist},
		"replaced and removed": {[]string{"complete", "remove"}, "", fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			d := AttachmentDir(t.TempDir())
			p := start(t, "begin", string(d), "c1", "net1")
			path, err := d.path(id)
			if err != nil {
				t.Fatal(err)
			}
			type outcome struct {
				r   *Record
				err error
			}
			locked := make(chan outcome, 1)
			ctx := soon(t)
			go func() {
				r, err := d.Lock(ctx, id)
				locked <- outcome{r, err}
			}()
			awaitOpen(t, path)
			for _, step := range tt.steps {
				p.do(step)
			}
			got := <-locked
			if !errors.Is(got.err, tt.want) {
				t.Fatalf("Lock: %v; want %v", got.err, tt.want)
			}
			if tt.want != nil {
				return
			}
			defer got.r.Close()
			if got.r.State != tt.state {
				t.Errorf("state %q, want %q", got.r.State, tt.state)
			}
			if _, err := d.Lock(atOnce(t), id); !errors.Is(err, ErrBusy) {
				t.Errorf("another Lock: %v; want ErrBusy, for the file that is there now is locked", err)
			}
		})
	}
}

// awaitOpen waits until this process has the file open.
func awaitOpen(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, fd := range list(t, "/proc/self/fd") {
			if target, err := os.Readlink("/proc/self/fd/" + fd); err == nil && target == path {
				return
			}
		}
	}
	t.Fatalf("nobody has opened %s", path)
}

// TestSaveKeepsLock: between two contents nobody else gets the lock.
func TestSaveKeepsLock(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	r := begin(t, d, attachment("c1", "net1"))
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		r, err := d.Lock(ctx, id)
		if err == nil {
			r.Close()
		}
		got <- err
	}()
	for range 200 {
		if err := r.Save(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-got; !errors.Is(err, ErrBusy) {
		t.Errorf("Lock beside a writer: %v; want ErrBusy", err)
	}
}

// TestSaveLeavesOneFile: the old content is gone, also after a writer that was killed between the two, and where the
// record has been deleted by hand.
func TestSaveLeavesOneFile(t *testing.T) {
	for name, before := range map[string]func(path string) error{
		"as usual":          func(string) error { return nil },
		"a dead writer's":   func(path string) error { return os.WriteFile(atomicfile.TempPath(path), []byte("{}"), 0o600) },
		"deleted by others": os.Remove,
	} {
		d := AttachmentDir(t.TempDir())
		r := begin(t, d, attachment("c1", "net1"))
		if err := before(r.path); err != nil {
			t.Fatal(err)
		}
		r.State = StateComplete
		if err := r.Save(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if names := list(t, string(d)); len(names) != 1 || names[0] != "c1-net1.json" {
			t.Errorf("%s: the folder holds %q, want the record", name, names)
		}
		if _, err := d.Lock(atOnce(t), id); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: Lock of the saved record: %v; want ErrBusy", name, err)
		}
		r.Close()
		got, err := d.Lock(atOnce(t), id)
		if err != nil || got.State != StateComplete {
			t.Fatalf("%s: the record is %+v, %v; want it complete", name, got, err)
		}
		// As a writer leaves it that is killed before it has removed the old file.
		if err := os.WriteFile(atomicfile.TempPath(r.path), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if all, bad, err := d.List(); len(all) != 1 || len(bad) > 0 || err != nil {
			t.Errorf("%s: List beside an old file = %v, %v, %v; want the record", name, all, bad, err)
		}
		if err := got.Remove(); err != nil {
			t.Error(err)
		}
		if names := list(t, string(d)); len(names) > 0 {
			t.Errorf("%s: after Remove the folder holds %q", name, names)
		}
	}
}

// TestLeftoverTemp: a writer that is killed before its record is visible leaves
// a file, which the next look at the attachment removes.
func TestLeftoverTemp(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	path, err := d.path(id)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := atomicfile.Prepare(path, nil, 0o600, atomicfile.Volatile)
	if err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		if _, err := d.Lock(soon(t), id); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Lock without a record: %v; want ErrNotExist", err)
		}
	}
	look()
	if names := list(t, string(d)); len(names) != 1 {
		t.Errorf("beside a living writer the folder holds %q, want its file", names)
	}
	writer.Close()
	look()
	if names := list(t, string(d)); len(names) > 0 {
		t.Errorf("the folder holds %q, want nothing", names)
	}
}
