package pid1

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRestoreKept(t *testing.T) {
	dir := t.TempDir()
	from, root := filepath.Join(dir, "kept.tar"), filepath.Join(dir, "root")
	if err := restoreKept(from, root); err != nil {
		t.Errorf("without an archive: %v", err)
	}
	written := time.Unix(1_750_000_000, 0)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "var/lib/x", Mode: 0o700},
		{Typeflag: tar.TypeReg, Name: "var/lib/x/file", Mode: 0o600, Size: 4, ModTime: written},
		{Typeflag: tar.TypeSymlink, Name: "var/lib/x/link", Linkname: "file"},
		{Typeflag: tar.TypeReg, Name: "etc/alone", Mode: 0o644, ModTime: written},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("kept")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(from, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restoreKept(from, root); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(root, "var/lib/x/link"))
	if err != nil || string(data) != "kept" {
		t.Errorf("through the link: %q, %v", data, err)
	}
	for path, want := range map[string]os.FileMode{"var/lib/x": 0o700, "var/lib/x/file": 0o600, "etc/alone": 0o644} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().Perm() != want || !info.IsDir() && !info.ModTime().Equal(written) {
			t.Errorf("%s: mode %v, written %v", path, info.Mode(), info.ModTime())
		}
	}
}

func TestTestLimit(t *testing.T) {
	for _, tt := range []struct {
		limit  time.Duration
		uptime string
		want   time.Duration
	}{
		{5 * time.Minute, "7.53", 282 * time.Second},
		{12 * time.Second, "7.53", time.Second},
		{5 * time.Minute, "?", 0},
	} {
		if got, err := testLimit(tt.limit, tt.uptime); got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("testLimit(%v, %s) = %v, %v, want %v", tt.limit, tt.uptime, got, err, tt.want)
		}
	}
}
