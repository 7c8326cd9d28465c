package nodestate

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteFile(t *testing.T) {
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
				if err := WriteFile(path, []byte(content), tt.mode, tt.durability); err != nil {
					t.Fatal(err)
				}
				if got, err := ReadTrusted(path); err != nil || string(got) != content {
					t.Fatalf("ReadTrusted = %q, %v; want %q", got, err, content)
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

// TestWriteFileAtomic reads as fast as it can while two contents alternate.
func TestWriteFileAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.json")
	contents := [][]byte{bytes.Repeat([]byte("a"), 100), bytes.Repeat([]byte("b"), 300_000)}
	write := func(n int) {
		if err := WriteFile(path, contents[n%2], 0o600, Volatile); err != nil {
			t.Error(err)
		}
	}
	write(0)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				got, err := ReadTrusted(path)
				if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
					t.Errorf("ReadTrusted = %d octets, %v; want one of the two contents whole", len(got), err)
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

func TestWriteFileSymlink(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "file.json")
	put(t, target, "precious", 0o600)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTrusted(path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("ReadTrusted of a symbolic link: %v; want ErrUntrusted", err)
	}
	if err := WriteFile(path, []byte("ours"), 0o600, Volatile); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadTrusted(path); err != nil || string(got) != "ours" {
		t.Errorf("ReadTrusted = %q, %v; want what was written, in a file of its own", got, err)
	}
	if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
		t.Errorf("the link's target holds %q, %v; want it untouched", got, err)
	}
}

// TestWriteFileTemp meets what may lie where the temporary file goes.
func TestWriteFileTemp(t *testing.T) {
	t.Run("of a killed writer", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file.json")
		put(t, tempPath(path), "much more than the new content", 0o644)
		if err := WriteFile(path, []byte("new"), 0o600, Volatile); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadTrusted(path); err != nil || string(got) != "new" || mode(t, path) != 0o600 {
			t.Errorf("ReadTrusted = %q, %v, mode %v; want new, 0600", got, err, mode(t, path))
		}
	})
	t.Run("of a living writer", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file.json")
		f, err := createTemp(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := WriteFile(path, []byte("second"), 0o600, Volatile); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Errorf("WriteFile beside another writer: %v; want EWOULDBLOCK", err)
		}
		if err := publish(f, path, []byte("first"), Volatile, os.Rename); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadTrusted(path); err != nil || string(got) != "first" {
			t.Errorf("ReadTrusted = %q, %v; want first", got, err)
		}
	})
	t.Run("a symbolic link", func(t *testing.T) {
		dir := t.TempDir()
		target, path := filepath.Join(dir, "target"), filepath.Join(dir, "file.json")
		put(t, target, "precious", 0o600)
		if err := os.Symlink(target, tempPath(path)); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(path, []byte("new"), 0o600, Volatile); !errors.Is(err, unix.ELOOP) {
			t.Errorf("WriteFile through a symbolic link: %v; want ELOOP", err)
		}
		if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
			t.Errorf("the link's target holds %q, %v; want it untouched", got, err)
		}
	})
}

func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Durability{Durable, Volatile} {
		if err := WriteFile(path, []byte("x"), 0o600, d); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("WriteFile over a folder: %v; want an error that names it", err)
		}
	}
	if names := list(t, dir); len(names) != 1 {
		t.Errorf("a failed write has left %q", names)
	}
}

func TestReadTrusted(t *testing.T) {
	type file struct {
		make func(t *testing.T, path string)
		want error // nil: readable
	}
	tests := map[string]file{
		"missing":         {func(*testing.T, string) {}, fs.ErrNotExist},
		"plain":           {func(t *testing.T, path string) { put(t, path, "x", 0o600) }, nil},
		"readable by all": {func(t *testing.T, path string) { put(t, path, "x", 0o644) }, nil},
		"group may write": {func(t *testing.T, path string) { put(t, path, "x", 0o620) }, ErrUntrusted},
		"all may write":   {func(t *testing.T, path string) { put(t, path, "x", 0o602) }, ErrUntrusted},
		"folder": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, ErrUntrusted},
		"fifo": {func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrUntrusted},
		"dangling link": {func(t *testing.T, path string) {
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, ErrUntrusted},
		"as large as may be": {func(t *testing.T, path string) { put(t, path, strings.Repeat("x", maxFileSize), 0o600) }, nil},
		"too large":          {func(t *testing.T, path string) { put(t, path, strings.Repeat("x", maxFileSize+1), 0o600) }, ErrCorrupt},
	}
	if os.Geteuid() == 0 {
		tests["of somebody else"] = file{func(t *testing.T, path string) {
			put(t, path, "x", 0o600)
			if err := os.Chown(path, 1, 1); err != nil {
				t.Skip("this root may not give files away: ", err)
			}
		}, ErrUntrusted}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file.json")
			tt.make(t, path)
			data, err := ReadTrusted(path)
			if !errors.Is(err, tt.want) {
				t.Fatalf("ReadTrusted = %d octets, %v; want %v", len(data), err, tt.want)
			}
			if err != nil && (len(data) > 0 || !strings.Contains(err.Error(), path)) {
				t.Errorf("ReadTrusted = %d octets, %v; want no content, and the path in the error", len(data), err)
			}
		})
	}
}

// TestReadTrustedOfRoot: a user other than root reads what root wrote.
func TestReadTrustedOfRoot(t *testing.T) {
	const path = "/proc/sys/kernel/random/boot_id" // root's, 0444, on every Linux
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 0 {
		t.Skip("in this user namespace root owns no file")
	}
	data, err := ReadTrusted(path)
	if err != nil {
		t.Fatalf("ReadTrusted of a file of root (mode %#o): %v", st.Mode, err)
	}
	if id, err := BootID(); err != nil || id != strings.TrimSpace(string(data)) || len(id) != 36 {
		t.Errorf("BootID = %q, %v; want %q", id, err, data)
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
