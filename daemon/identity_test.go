package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestRenamedNodeIsRefused runs the built program: under another name it leaves the
// devices alone and ends. Its last line is an error with the remedy.
func TestRenamedNodeIsRefused(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	binary := filepath.Join(t.TempDir(), "multi-enid")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := newMachine(t, 1)
	m.declare("a", 1, "dpdkResourceName: intel.com/fast")
	m.start()
	m.until("a ready")
	m.pools("intel.com/fast", device.PCIAddress(eniOf(1).PCI))
	m.end()

	config, err := os.ReadFile(m.path("pcidp/config.json"))
	must(m, err)
	var stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(m.args(), "--node-name=node-b")...)
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != cli.Failure {
		t.Fatalf("ended with %v\n%s", err, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	for _, part := range []string{`"node-a"`, `"node-b"`, "NODE_NAME", "--renamed-from=node-a"} {
		if !strings.Contains(lines[len(lines)-1], part) {
			t.Errorf("the last line lacks %q:\n%s", part, &stderr)
		}
	}
	if after, err := os.ReadFile(m.path("pcidp/config.json")); err != nil || !bytes.Equal(config, after) {
		t.Errorf("the config is %s (%v)", after, err)
	}
	m.start("--node-name=node-b", "--renamed-from=node-a")
	m.until("a ready")
	m.end()
}
