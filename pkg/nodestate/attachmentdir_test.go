package nodestate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

var id = AttachmentID{ContainerID: "c1", IfName: "net1"}

// atOnce is a context in which nobody waits.
func atOnce(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// soon is a context in which nobody waits for ever.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func begin(t *testing.T, d AttachmentDir, a Attachment) *Record {
	t.Helper()
	r, err := d.Begin(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestRecord(t *testing.T) {
	d := AttachmentDir(filepath.Join(t.TempDir(), "records"))
	if all, bad, err := d.List(); len(all)+len(bad) > 0 || err != nil {
		t.Fatalf("List without a folder = %v, %v, %v; want nothing", all, bad, err)
	}
	if _, err := d.Lock(soon(t), id); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Lock without a folder: %v; want ErrNotExist", err)
	}
	a := attachment("c1", "net1")
	a.State = StateComplete // Begin knows better
	r := begin(t, d, a)
	path := filepath.Join(string(d), "c1-net1.json")
	if got := mode(t, path); got != 0o600 {
		t.Errorf("mode of the record %v, want 0600", got)
	}
	if _, err := d.Begin(a); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Begin: %v; want ErrExist", err)
	}
	want := a
	want.SchemaVersion, want.State = SchemaVersion, StateIntent
	expect(t, d, want)

	r.State, r.Result = StateComplete, []byte(`{"ips":[]}`)
	if err := r.Save(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	got, err := d.Lock(soon(t), id)
	if err != nil {
		t.Fatal(err)
	}
	want.State, want.Result = StateComplete, r.Result
	if diff := cmp.Diff(want, got.Attachment, sameJSON); diff != "" {
		t.Errorf("Lock (-want +got):\n%s", diff)
	}
	for range 2 { // what is gone already is no error
		if err := got.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if names := list(t, string(d)); len(names) > 0 {
		t.Errorf("after Remove the folder holds %q", names)
	}
}

func expect(t *testing.T, d AttachmentDir, want ...Attachment) {
	t.Helper()
	all, bad, err := d.List()
	if diff := cmp.Diff(want, all, sameJSON); diff != "" || len(bad) > 0 || err != nil {
		t.Errorf("List: %v, %v (-want +got):\n%s", bad, err, diff)
	}
}

func TestBeginRefuses(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	for name, breakIt := range map[string]func(*Attachment){
		"containerID is empty":      func(a *Attachment) { a.ContainerID = "" },
		"ifname is empty":           func(a *Attachment) { a.IfName = "" },
		"containerID leads away":    func(a *Attachment) { a.ContainerID = "../c1" },
		"containerID is a dot file": func(a *Attachment) { a.ContainerID = ".c1" },
		"ifname leads away":         func(a *Attachment) { a.IfName = "x/y" },
		"NUL":                       func(a *Attachment) { a.IfName = "x\x00" },
		"name too long":             func(a *Attachment) { a.ContainerID = strings.Repeat("c", 241) },
		"no device":                 func(a *Attachment) { a.Device.PCIAddress = "" },
		"no mode":                   func(a *Attachment) { a.Mode = "" },
	} {
		t.Run(name, func(t *testing.T) {
			a := attachment("c1", "net1")
			breakIt(&a)
			if _, err := d.Begin(a); err == nil {
				t.Error("Begin accepts it")
			}
			if names := list(t, string(d)); len(names) > 0 {
				t.Errorf("the folder holds %q", names)
			}
		})
	}
	longest := attachment(strings.Repeat("c", 240), "net1")
	if err := begin(t, d, longest).Remove(); err != nil {
		t.Errorf("Remove of the longest name: %v", err)
	}
}

// TestBeginOnce has many begin the same attachment at the same moment.
func TestBeginOnce(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	for range 50 {
		var mu sync.Mutex
		var won []*Record
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				r, err := d.Begin(attachment("c1", "net1"))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won = append(won, r)
				case !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.EAGAIN):
					t.Errorf("Begin: %v; want ErrExist or EAGAIN", err)
				}
			})
		}
		all.Wait()
		if len(won) != 1 {
			t.Fatalf("%d have begun the attachment, want one", len(won))
		}
		if _, err := d.Lock(atOnce(t), id); !errors.Is(err, ErrBusy) {
			t.Fatalf("Lock of the winner's record: %v; want ErrBusy", err)
		}
		if err := won[0].Remove(); err != nil {
			t.Fatal(err)
		}
	}
}

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

// TestHeir: a program that outlives a killed multi-eni may still have effects, so
// Lock waits for it. Lock waits neither for a process that the program has left
// behind, nor for a program that does not end in its time.
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
	if err := p.stdin.Close(); err != nil { // the program ends
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

// TestSaveLeavesOneFile: what the record was before is gone with it, also after a
// writer that was killed between the two, and where the record has been deleted
// by hand.
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

// TestNames: no two attachments have one file, whatever dashes their ids have.
func TestNames(t *testing.T) {
	seen := map[string]AttachmentID{}
	parts := []string{"a", "b", "c", "a-b", "b-c", "a-b-c", "a--b", "b--c", "-a", "a-", "c-", "-"}
	for _, container := range parts {
		for _, ifname := range parts {
			id := AttachmentID{container, ifname}
			name := id.fileName()
			if other, taken := seen[name]; taken {
				t.Errorf("%+v and %+v are both in %s", other, id, name)
			}
			seen[name] = id
		}
	}
	if name := (AttachmentID{"cnitool-1", "net1"}).fileName(); name != "cnitool-1-net1.json" {
		t.Errorf("an interface without a dash is in %s", name)
	}
}

// TestTwoIDsOneOldName: a-b with c and a with b-c had one file name once. A record
// of that name is its owner's, and nobody else waits for its lock.
func TestTwoIDsOneOldName(t *testing.T) {
	first, second := attachment("a-b", "c"), attachment("a", "b-c")
	first.SchemaVersion, first.State = SchemaVersion, StateIntent
	second.SchemaVersion, second.State = SchemaVersion, StateIntent
	d := AttachmentDir(t.TempDir())
	one := begin(t, d, first)
	if _, err := d.Lock(atOnce(t), second.AttachmentID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lock beside the other's: %v; want ErrNotExist", err)
	}
	two := begin(t, d, second)
	if _, err := d.Lock(atOnce(t), second.AttachmentID); !errors.Is(err, ErrBusy) {
		t.Errorf("Lock of a record that is locked: %v; want ErrBusy", err)
	}
	two.Close()
	expect(t, d, first, second)
	if err := d.Discard(second.AttachmentID, "boot"); !errors.Is(err, ErrBusy) {
		t.Errorf("Discard of a whole record: %v; want ErrBusy", err)
	}
	one.Close()

	d = AttachmentDir(t.TempDir())
	data, err := Encode(second)
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(filepath.Join(string(d), "a-b-c.json"), data, 0o600, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	expect(t, d, second)
	if _, err := d.Begin(second); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Begin beside the record in its old place: %v; want ErrExist", err)
	}
	r, err := d.Lock(soon(t), second.AttachmentID)
	if err != nil {
		t.Fatalf("Lock of a record in its old place: %v", err)
	}
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	expect(t, d)
}

func TestUnusableRecords(t *testing.T) {
	whole := func(t *testing.T, change func(*Attachment)) string {
		a := attachment("c1", "net1")
		a.SchemaVersion, a.State = SchemaVersion, StateIntent
		change(&a)
		data, err := Encode(a)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	contents := map[string]string{
		"empty":       "",
		"torn":        whole(t, func(*Attachment) {})[:200],
		"twice":       strings.Repeat(whole(t, func(*Attachment) {}), 2),
		"null":        "null",
		"no version":  whole(t, func(a *Attachment) { a.SchemaVersion = 0 }),
		"state":       whole(t, func(a *Attachment) { a.State = "done" }),
		"mode":        whole(t, func(a *Attachment) { a.Mode = "borrowed" }),
		"no device":   whole(t, func(a *Attachment) { a.Device = AttachedDevice{} }),
		"bad address": whole(t, func(a *Attachment) { a.Device.PCIAddress = "../../../etc" }),
		"no id":       whole(t, func(a *Attachment) { a.IfName = "" }),
	}
	for name, content := range contents {
		t.Run(name, func(t *testing.T) {
			d := AttachmentDir(t.TempDir())
			path := filepath.Join(string(d), id.String()+".json")
			put(t, path, content, 0o600)
			if _, err := d.Lock(soon(t), id); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Errorf("Lock: %v; want ErrCorrupt and the path", err)
			}
			if all, bad, err := d.List(); len(all) > 0 || len(bad) != 1 || !errors.Is(bad[0], ErrCorrupt) || err != nil {
				t.Errorf("List = %v, %v, %v; want one ErrCorrupt", all, bad, err)
			}
			if _, err := d.Begin(attachment("c1", "net1")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Begin over it: %v; want ErrExist", err)
			}
			for range 2 {
				if err := d.Discard(id, "boot"); err != nil {
					t.Fatalf("Discard: %v", err)
				}
			}
			if names := list(t, string(d)); len(names) > 0 {
				t.Errorf("after Discard the folder holds %q", names)
			}
		})
	}
}

// TestRecordsOfAnotherVersion: only that version can undo them, so they do not count
// as torn.
func TestRecordsOfAnotherVersion(t *testing.T) {
	id := AttachmentID{ContainerID: "c1", IfName: "net1"}
	for name, content := range map[string]string{
		"more keys":   `{"schemaVersion":2,"containerID":"c1","ifname":"net1","new":1}`,
		"other types": `{"device":["a"],"schemaVersion":3,"state":{"a":1}}`,
	} {
		d := AttachmentDir(t.TempDir())
		path := filepath.Join(string(d), id.String()+".json")
		put(t, path, content, 0o600)
		_, err := d.Lock(soon(t), id)
		for what, err := range map[string]error{"Lock": err, "Discard": d.Discard(id, "boot")} {
			if !errors.Is(err, ErrOtherVersion) || errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: %s: %v; want ErrOtherVersion", name, what, err)
			}
		}
		if names := list(t, string(d)); len(names) != 1 {
			t.Errorf("%s: the folder holds %q; want the record", name, names)
		}
	}
}

func TestUntrustedRecords(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink("/etc/hostname", path) },
		"fifo":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"writable": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("{}"), 0o600), os.Chmod(path, 0o666))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := AttachmentDir(t.TempDir())
			path := filepath.Join(string(d), id.String()+".json")
			if err := plant(path); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Lock(soon(t), id); !errors.Is(err, ErrUntrusted) {
				t.Errorf("Lock: %v; want ErrUntrusted", err)
			}
			if err := d.Discard(id, "boot"); !errors.Is(err, ErrUntrusted) {
				t.Errorf("Discard: %v; want ErrUntrusted", err)
			}
			if _, err := d.Begin(attachment("c1", "net1")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Begin over it: %v; want ErrExist", err)
			}
			if all, bad, err := d.List(); len(all) > 0 || len(bad) != 1 || !errors.Is(bad[0], ErrUntrusted) || err != nil {
				t.Errorf("List = %v, %v, %v; want one ErrUntrusted", all, bad, err)
			}
		})
	}
}

func TestList(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	var want []Attachment
	for _, container := range []string{"a", "b", "c"} {
		a := attachment(container, "net1")
		begin(t, d, a).Close()
		a.SchemaVersion, a.State = SchemaVersion, StateIntent
		want = append(want, a)
	}
	// What else may lie there: a killed writer's file, our folders, a README.
	put(t, filepath.Join(string(d), ".d-net1.json.tmp"), "", 0o600)
	put(t, filepath.Join(string(d), "README"), "", 0o600)
	if err := errors.Join(os.Mkdir(filepath.Join(string(d), "locks"), 0o700), os.Mkdir(filepath.Join(string(d), "x.json"), 0o700)); err != nil {
		t.Fatal(err)
	}
	expect(t, d, want...)

	if err := os.Rename(filepath.Join(string(d), "b-net1.json"), filepath.Join(string(d), "b-net2.json")); err != nil {
		t.Fatal(err)
	}
	all, bad, err := d.List()
	if len(all) != 2 || len(bad) != 1 || !errors.Is(bad[0], ErrCorrupt) || err != nil {
		t.Errorf("List with a record under another's name = %v, %v, %v; want ErrCorrupt for it", all, bad, err)
	}
	file := AttachmentDir(filepath.Join(string(d), "README"))
	if all, bad, err := file.List(); err == nil {
		t.Errorf("List of a file = %v, %v; want an error", all, bad)
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

// TestShareDevice: side by side with its kind, and never beside one who is alone.
func TestShareDevice(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	const pci = device.PCIAddress("0000:00:07.0")
	p := start(t, "claim", string(d), pci.String())
	if _, err := d.ShareDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
		t.Fatalf("ShareDevice beside LockDevice: %v; want ErrBusy", err)
	}
	p.kill()
	first, err := d.ShareDevice(soon(t), pci)
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.ShareDevice(atOnce(t), pci)
	if err != nil {
		t.Fatalf("ShareDevice beside ShareDevice: %v", err)
	}
	for _, unlock := range []func(){first, second} {
		if _, err := d.LockDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
			t.Errorf("LockDevice beside ShareDevice: %v; want ErrBusy", err)
		}
		unlock()
	}
	unlock, err := d.LockDevice(atOnce(t), pci)
	if err != nil {
		t.Fatalf("LockDevice after ShareDevice: %v", err)
	}
	unlock()
}

func TestLockDevice(t *testing.T) {
	d := AttachmentDir(filepath.Join(t.TempDir(), "records"))
	const pci, other = device.PCIAddress("0000:00:07.0"), device.PCIAddress("0000:00:08.0")
	p := start(t, "claim", string(d), pci.String())
	if _, err := d.LockDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
		t.Fatalf("LockDevice of a claimed device: %v; want ErrBusy", err)
	}
	if unlock, err := d.LockDevice(atOnce(t), other); err != nil {
		t.Errorf("LockDevice of another device: %v", err)
	} else {
		unlock()
	}
	p.kill()
	unlock, err := d.LockDevice(soon(t), pci)
	if err != nil {
		t.Fatalf("LockDevice of a dead process's device: %v", err)
	}
	if _, err := d.LockDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
		t.Errorf("LockDevice twice in one process: %v; want ErrBusy", err)
	}
	unlock()
	if unlock, err = d.LockDevice(atOnce(t), pci); err != nil {
		t.Fatalf("LockDevice after unlock: %v", err)
	}
	unlock()
	path := filepath.Join(string(d), "locks", pci.String()+".lock")
	if got := mode(t, path); got != 0o600 {
		t.Errorf("the lock file stays, with mode 0600; it has %v", got)
	}
	if err := errors.Join(os.Remove(path), os.Symlink("/dev/null", path)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.LockDevice(soon(t), pci); !errors.Is(err, unix.ELOOP) {
		t.Errorf("LockDevice through a symbolic link: %v; want ELOOP", err)
	}
}

func TestRestore(t *testing.T) {
	d := AttachmentDir(filepath.Join(t.TempDir(), "records"))
	const pci = device.PCIAddress("0000:00:07.0")
	path := filepath.Join(string(d), "restore", "0000:00:07.0.json")
	if all, err := d.Restores(); len(all) > 0 || err != nil {
		t.Fatalf("Restores without a folder = %v, %v; want none", all, err)
	}
	if _, err := d.LoadRestore(pci); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("LoadRestore without a record: %v; want ErrNotExist", err)
	}
	want := Restore{BootID: "boot", Device: AttachedDevice{
		PCIAddress: pci, MAC: "02:00:00:00:00:07", VF: true,
		Link: &LinkState{Name: "ens7", AltNames: []string{"enp0s7"}, MAC: "02:00:00:00:00:07", MTU: 9001, Up: true},
	}}
	for range 2 {
		if err := d.SaveRestore(want); err != nil {
			t.Fatal(err)
		}
	}
	want.SchemaVersion = SchemaVersion
	got, err := d.LoadRestore(pci)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("LoadRestore: %v (-want +got):\n%s", err, diff)
	}
	put(t, filepath.Join(string(d), "restore", "README.json"), "", 0o600)
	all, err := d.Restores()
	if diff := cmp.Diff([]device.PCIAddress{pci}, all); diff != "" || err != nil {
		t.Errorf("Restores: %v (-want +got):\n%s", err, diff)
	}
	for name, content := range map[string]string{
		"empty":             "",
		"of another device": `{"schemaVersion":1,"device":{"pciAddress":"0000:00:08.0"}}`,
	} {
		put(t, path, content, 0o600)
		if got, err := d.LoadRestore(pci); !errors.Is(err, ErrCorrupt) {
			t.Errorf("LoadRestore of a record %s = %v, %v; want ErrCorrupt", name, got, err)
		}
	}
	for range 2 {
		if err := d.RemoveRestore(pci); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := d.Restores(); len(all) > 0 || err != nil {
		t.Errorf("Restores after RemoveRestore = %v, %v; want none", all, err)
	}
}

// TestReturned: what the daemon has to undo of a driver outlives the link's
// return, and everything else does not.
func TestReturned(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	const late, taken = device.PCIAddress("0000:00:07.0"), device.PCIAddress("0000:00:08.0")
	for pci, driver := range map[device.PCIAddress]string{late: "", taken: "ena"} {
		if err := d.SaveRestore(Restore{BootID: "boot", Driver: driver, Device: AttachedDevice{PCIAddress: pci}}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time there may be none
			if err := d.Returned(pci); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left, err := d.Restores(); err != nil || len(left) != 1 || left[0] != taken {
		t.Errorf("left are %v, %v; want %s", left, err, taken)
	}
}
