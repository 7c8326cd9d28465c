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
	for range 2 { // a record that is gone already is no error
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

// TestRecordsOfAnotherVersion: only that version can undo them, so they do not count as torn.
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
	// Other files in the folder: a killed writer's file, our folders, a README.
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
