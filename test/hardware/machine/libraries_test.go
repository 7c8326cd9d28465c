package machine

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLibrariesOfThisSystem(t *testing.T) {
	shell, err := filepath.EvalSymlinks("/bin/sh")
	must(t, err)
	out := newFiles()
	l, err := newLibraries("/", out)
	must(t, err)
	must(t, l.add(shell))
	names := strings.Join(slices.Collect(maps.Keys(out.records)), "\n")
	for _, want := range []string{strings.TrimPrefix(shell, "/"), "libc.so.6", "ld-linux"} {
		if !strings.Contains(names, want) {
			t.Errorf("no %s among\n%s", want, names)
		}
	}
}

// Links are kept, so that a library stays one file.
func TestLibrariesKeepLinks(t *testing.T) {
	root := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	write(t, filepath.Join(root, "usr/lib/plugins/x.so.1.0"), self)
	for at, to := range map[string]string{"lib": "usr/lib", "usr/lib/plugins/x.so": "x.so.1", "usr/lib/plugins/x.so.1": "x.so.1.0",
		"usr/lib/x.so": "plugins/x.so"} {
		must(t, os.Symlink(to, filepath.Join(root, at)))
	}
	out := newFiles()
	l, err := newLibraries(root, out)
	must(t, err)
	path, err := l.copy("lib/x.so")
	if err != nil || path != "usr/lib/plugins/x.so.1.0" {
		t.Errorf("copy = %s, %v", path, err)
	}
	want := []string{"usr", "usr/lib", "usr/lib/plugins", "usr/lib/plugins/x.so", "usr/lib/plugins/x.so.1", "usr/lib/plugins/x.so.1.0", "usr/lib/x.so"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(out.records))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if _, err := l.find("y.so"); err == nil {
		t.Error("finds a library that is nowhere")
	}
}
