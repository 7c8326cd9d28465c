package arch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxPlugin limits the unstripped plugin, in bytes. net/http or a client library alone would exceed it.
const maxPlugin = 8 << 20

func TestPluginSize(t *testing.T) {
	dirs := map[string]bool{}
	for _, f := range load(t).goFiles(product) {
		if strings.HasPrefix(f.path, "plugins/") && f.ast.Name.Name == "main" {
			dirs[f.dir()] = true
		}
	}
	for dir := range dirs {
		t.Run(dir, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "plugin")
			// The flags of make build, so that the two share the build cache.
			cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", out, "./"+dir)
			cmd.Dir = root(t)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", cmd, err, text)
			}
			if err := checkSize(out, maxPlugin); err != nil {
				t.Errorf("%v: see what it links with `go list -deps ./%s`", err, dir)
			}
		})
	}
}

func TestPluginSizeCanFail(t *testing.T) {
	name := filepath.Join(t.TempDir(), "plugin")
	for size, ok := range map[int64]bool{maxPlugin: true, maxPlugin + 1: false} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		if err := checkSize(name, maxPlugin); (err == nil) != ok {
			t.Errorf("checkSize of a file of %d bytes: %v, want ok %v", size, err, ok)
		}
	}
}

func checkSize(name string, limit int64) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.Size() > limit {
		return fmt.Errorf("%s has %d bytes, at most %d", name, info.Size(), limit)
	}
	return nil
}
