package nstest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestPrepareHidesSettings makes settings of a host, and looks for them again after Prepare.
func TestPrepareHidesSettings(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	if err := unix.Mount("tmpfs", "/etc", "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	files := []string{"/etc/cni/tuning/allowlist.conf", "/etc/multi-eni/policy.json", "/etc/pcidp/config.json"}
	for _, name := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := nstest.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after Prepare: %v, want it hidden", name, err)
		}
	}
}
