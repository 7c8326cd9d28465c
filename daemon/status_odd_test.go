package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// statusOf returns the output of status for an inventory and a folder of records.
func statusOf(t *testing.T, inv nodestate.Inventory, records nodestate.AttachmentDir) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inventory.json")
	must(t, nodestate.WriteInventory(path, inv))
	code, stdout, stderr := call(t.Context(), nil, "status", "--inventory", path, "--attachments-dir", string(records))
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	return stdout
}

func thisBoot(t *testing.T) string {
	t.Helper()
	boot, err := nodestate.BootID()
	must(t, err)
	return boot
}

// begin writes the record of an attachment in a state.
func begin(t *testing.T, records nodestate.AttachmentDir, pod string, state nodestate.State, a nodestate.Attachment) {
	t.Helper()
	a.AttachmentID = nodestate.AttachmentID{ContainerID: pod, IfName: "net1"}
	a.Pod = "default/" + pod
	rec, err := records.Begin(a)
	must(t, err)
	t.Cleanup(rec.Close)
	rec.State = state
	must(t, rec.Save())
}

// TestStatusHolders: only a pod that has a device of the inventory now is its holder.
func TestStatusHolders(t *testing.T) {
	boot := thisBoot(t)
	at := nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}
	records := nodestate.AttachmentDir(filepath.Join(t.TempDir(), "records"))
	begin(t, records, "has", nodestate.StateComplete, nodestate.Attachment{BootID: boot, Mode: nodestate.ModeExclusive, Device: at})
	begin(t, records, "gave-back", nodestate.StateReleased, nodestate.Attachment{BootID: boot, Mode: nodestate.ModeExclusive, Device: at})
	begin(t, records, "before-boot", nodestate.StateComplete, nodestate.Attachment{BootID: "boot-0", Mode: nodestate.ModeExclusive, Device: at})
	out := statusOf(t, sample(boot), records)
	if !strings.Contains(out, "default/has") {
		t.Errorf("the holder is missing:\n%s", out)
	}
	for _, not := range []string{"gave-back", "before-boot"} {
		if strings.Contains(out, not) {
			t.Errorf("%s holds nothing:\n%s", not, out)
		}
	}
	for _, earlier := range []string{"boot-0", "boot--1"} {
		if out := statusOf(t, sample(earlier), records); strings.Contains(out, "default/") {
			t.Errorf("an inventory of another boot has holders:\n%s", out)
		}
	}
}

// TestStatusOfNothing: an empty table claims nothing that is not known.
func TestStatusOfNothing(t *testing.T) {
	inv := nodestate.Inventory{NodeName: "node-a", BootID: thisBoot(t),
		Problems: []nodestate.Problem{{Reason: "NodeENIsUnreadable", Message: "NodeENIs cannot be read"}}}
	out := statusOf(t, inv, nodestate.AttachmentDir(t.TempDir()))
	if strings.Contains(out, "no NodeENI declares") || !strings.Contains(out, "problems below") || !strings.Contains(out, "NodeENIsUnreadable") {
		t.Errorf("status of a node whose NodeENIs are not known:\n%s", out)
	}
}

// TestStatusErrorsNameTheWayOut for the files as people find them.
func TestStatusErrorsNameTheWayOut(t *testing.T) {
	tests := map[string]struct {
		arrange func(path string) error
		want    string
	}{
		"torn":          {func(path string) error { return os.WriteFile(path, []byte(`{"schemaVersion":1,`), 0o600) }, "writes it anew"},
		"other version": {func(path string) error { return os.WriteFile(path, []byte(`{"schemaVersion":9}`), 0o600) }, "of this version"},
		"open to all": {func(path string) error {
			if err := os.WriteFile(path, []byte(`{}`), 0o600); err != nil {
				return err
			}
			return os.Chmod(path, 0o666)
		}, "chmod go-w"},
		"symbolic link": {func(path string) error { return os.Symlink("/dev/null", path) }, "symbolic link"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "inventory.json")
			must(t, tt.arrange(path))
			code, stdout, stderr := call(t.Context(), nil, "status", "--inventory", path)
			if code != cli.Failure || stdout != "" || !strings.Contains(stderr, path) || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit code %d, want %q named:\n%s", code, tt.want, stderr)
			}
		})
	}
}

func TestStatusWithoutPermission(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "run", "inventory.json")
	must(t, nodestate.WriteInventory(path, sample("boot-0")))
	dir := filepath.Dir(path)
	must(t, os.Chmod(dir, 0))
	withoutCapabilities(t)
	code, _, stderr := call(t.Context(), nil, "status", "--inventory", path)
	if code != cli.Failure || !strings.Contains(stderr, "sudo multi-enid status") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Error(err)
	}
}

// withoutCapabilities has file modes bind the test's own thread, even root's.
func withoutCapabilities(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	must(t, unix.Capset(&h, &none[0]))
}

// TestHoldersFollowTheRecords: the status has each pod as its record says now, from the node's first pod on.
func TestHoldersFollowTheRecords(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1, 2, 3)
	for n, name := range []string{"a", "b", "c"} {
		m.declare(name, n+1)
	}
	m.start()
	m.until("a ready", "b ready", "c ready")
	for n, name := range []string{"a", "b", "c"} {
		m.attach("pod-"+name, name)
		for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			s, err := status.Ask(t.Context(), status.Socket(m.path("run/inventory.json")))
			complete := 0
			for _, h := range s.Holders {
				if h.State == nodestate.StateComplete {
					complete++
				}
			}
			if err == nil && complete == n+1 {
				break
			}
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("20 s after pod-%s was attached: holders %+v, %v\n%s", name, s.Holders, err, m.stderr.String())
			}
		}
	}
	m.end()
}
