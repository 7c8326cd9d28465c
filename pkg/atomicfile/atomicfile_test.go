package atomicfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		mode       fs.FileMode
		durability Durability
	}{
		"durable":                 {0o600, Durable},
		"volatile":                {0o600, Volatile},
		"readable, under a umask": {0o644, Volatile},
	} {
		t.Run(name, func(t *testing.T) {
			old := unix.Umask(0o077)
			defer unix.Umask(old)
			path := filepath.Join(t.TempDir(), "a", "b", "file.json")
			for _, content := range []string{"first", "the second is longer", "3rd", ""} {
				if err := Write(path, []byte(content), tt.mode, tt.durability); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(path); err != nil || string(got) != content {
					t.Fatalf("ReadFile = %q, %v; want %q", got, err, content)
				}
				if got := mode(t, path); got != tt.mode {
					t.Errorf("mode %v, want %v", got, tt.mode)
				}
			}
			if got := mode(t, filepath.Dir(path)); got != 0o700|fs.ModeDir {
				t.Errorf("mode of the folder %v, want 0700", got)
			}
			if names := list(t, filepath.Dir(path)); len(names) != 1 {
				t.Errorf("the folder holds %q, want the file alone", names)
			}
		})
	}
}

// TestWriteAtomic reads as fast as it can while two contents alternate.
func TestWriteAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.json")
	contents := [][]byte{bytes.Repeat([]byte("a"), 100), bytes.Repeat([]byte("b"), 300_000)}
	write := func(n int) {
		if err := Write(path, contents[n%2], 0o600, Volatile); err != nil {
			t.Error(err)
		}
	}
	write(0)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				got, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
					t.Errorf("ReadFile = %d octets, %v; want one of the two contents whole", len(got), err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for n := range 300 {
		write(n)
	}
	close(done)
	readers.Wait()
}

func TestWriteSymlink(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "file.json")
	put(t, target, "precious", 0o600)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("Open of a symbolic link: %v; want ErrUntrusted", err)
	}
	if err := Write(path, []byte("ours"), 0o600, Volatile); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "ours" {
		t.Errorf("ReadFile = %q, %v; want what was written, in a file of its own", got, err)
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
		t.Errorf("the link's target holds %q, %v; want it untouched", got, err)
	}
}

// TestWriteTemp finds other files at the temporary file's place.
func TestWriteTemp(t *testing.T) {
	t.Run("of a killed writer", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file.json")
		put(t, TempPath(path), "much more than the new content", 0o644)
		if err := Write(path, []byte("new"), 0o600, Volatile); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "new" || mode(t, path) != 0o600 {
			t.Errorf("ReadFile = %q, %v, mode %v; want new, 0600", got, err, mode(t, path))
		}
	})
	t.Run("of a living writer", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file.json")
		p, err := Prepare(path, []byte("first"), 0o600, Volatile)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := Write(path, []byte("second"), 0o600, Volatile); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("Write beside another writer: %v; want EWOULDBLOCK", err)
		}
		if err := p.Replace(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "first" {
			t.Errorf("ReadFile = %q, %v; want first", got, err)
		}
	})
	t.Run("a symbolic link", func(t *testing.T) {
		dir := t.TempDir()
		target, path := filepath.Join(dir, "target"), filepath.Join(dir, "file.json")
		put(t, target, "precious", 0o600)
		if err := os.Symlink(target, TempPath(path)); err != nil {
			t.Fatal(err)
		}
		if err := Write(path, []byte("new"), 0o600, Volatile); !errors.Is(err, unix.ELOOP) {
			t.Errorf("Write through a symbolic link: %v; want ELOOP", err)
		}
		if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
			t.Errorf("the link's target holds %q, %v; want it untouched", got, err)
		}
	})
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Durability{Durable, Volatile} {
		if err := Write(path, []byte("x"), 0o600, d); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Write over a folder: %v; want an error that names it", err)
		}
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("a failed write has left %q", names)
	}
}

// TestPending ends a prepared write in each way, where there is an old file and where there is none.
func TestPending(t *testing.T) {
	for name, tt := range map[string]struct {
		end      func(*Pending) error
		old, new string // the content afterwards, beside an old file and without one
		err      error  // beside an old file
	}{
		"replace":  {(*Pending).Replace, "new", "new", nil},
		"exchange": {(*Pending).Exchange, "new", "new", nil},
		"create":   {(*Pending).Create, "old", "new", fs.ErrExist},
		"discard":  {func(p *Pending) error { p.Discard(); return nil }, "old", "", nil},
	} {
		for _, old := range []string{"old", ""} {
			path := filepath.Join(t.TempDir(), "file.json")
			want, wantErr := tt.new, error(nil)
			if old != "" {
				put(t, path, old, 0o600)
				want, wantErr = tt.old, tt.err
			}
			p, err := Prepare(path, []byte("new"), 0o600, Durable)
			if err != nil {
				t.Fatal(err)
			}
			if data, _ := os.ReadFile(path); string(data) != old {
				t.Errorf("%s: before it the file holds %q, want %q", name, data, old)
			}
			if data, err := os.ReadFile(p.Name()); string(data) != "new" {
				t.Errorf("%s: the temporary file holds %q, %v; want new", name, data, err)
			}
			if err := tt.end(p); !errors.Is(err, wantErr) || err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v; want %v, with the path", name, err, wantErr)
			}
			if data, _ := os.ReadFile(path); string(data) != want {
				t.Errorf("%s: the file holds %q, want %q", name, data, want)
			}
			if Same(p.File, path) != (want == "new") {
				t.Errorf("%s: the open file is the one at the path: %t", name, Same(p.File, path))
			}
			if _, err := os.Lstat(p.Name()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s leaves the temporary file: %v", name, err)
			}
			p.Close()
		}
	}
}

// TestWriteNew loses a race against another writer of the same new file.
func TestWriteNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, want := range []error{nil, fs.ErrExist} {
		if err := WriteNew(path, []byte("first"), 0o600, Durable); !errors.Is(err, want) {
			t.Errorf("WriteNew: %v; want %v", err, want)
		}
	}
	if names := list(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("the folder holds %q, want the file alone", names)
	}
}

// TestPreparedIsExecutable: a program can be run before it is put in place.
func TestPreparedIsExecutable(t *testing.T) {
	p, err := Prepare(filepath.Join(t.TempDir(), "run"), []byte("#!/bin/sh\necho ok\n"), 0o755, Durable)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Discard()
	p.Close()
	if out, err := exec.Command(p.Name()).CombinedOutput(); err != nil || string(out) != "ok\n" {
		t.Errorf("run the temporary file: %q, %v", out, err)
	}
}

// TestRemoveLeftover removes a dead writer's file only.
func TestRemoveLeftover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.json")
	p, err := Prepare(path, nil, 0o600, Volatile)
	if err != nil {
		t.Fatal(err)
	}
	exists := func(want bool) {
		t.Helper()
		if err := RemoveLeftover(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(p.Name()); errors.Is(err, fs.ErrNotExist) == want {
			t.Errorf("the temporary file: %v; want it there: %t", err, want)
		}
	}
	exists(true) // its writer lives
	p.Close()
	exists(false)
	exists(false) // nothing to remove
	put(t, p.Name(), "", 0o666)
	if err := RemoveLeftover(path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("RemoveLeftover of a file that anybody may write: %v; want ErrUntrusted", err)
	}
	if err := Write(path, nil, 0o600, Volatile); !errors.Is(err, ErrUntrusted) {
		t.Errorf("Write over a file that anybody may write: %v; want ErrUntrusted", err)
	}
}

// TestFolders: a folder that cannot be made, removed or synced is named.
func TestFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	put(t, file, "", 0o600)
	for name, err := range map[string]error{
		"Write below a file":      Write(filepath.Join(file, "a"), nil, 0o600, Durable),
		"SyncFolder of nothing":   SyncFolder(filepath.Join(file, "a")),
		"Remove of a full folder": Remove(filepath.Join(dir, "none"), dir),
	} {
		if err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v; want an error that names it", name, err)
		}
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// put writes a file of exactly that mode, as anybody might.
func put(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
