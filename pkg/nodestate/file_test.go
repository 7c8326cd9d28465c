package nodestate

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

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

// TestReadTrustedOfRoot: a user other than root reads root's files.
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

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}
