package reconcile

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// locked makes a folder that cannot be written to in place of path's own: the Sync ends there, as if killed before that
// write.
func (n *testNode) locked(path string) (unlock func()) {
	n.Helper()
	dir := filepath.Dir(n.path(path))
	away := dir + "-away"
	_, err := os.Stat(dir)
	had := err == nil
	if had {
		n.must(os.Rename(dir, away))
	}
	n.must(os.WriteFile(dir, nil, 0o600)) // not even root can write below a file
	return func() {
		n.must(os.Remove(dir))
		if had {
			n.must(os.Rename(away, dir))
		}
	}
}

// Whichever write a daemon is killed before, the next one goes on; no device is ready before it is in the checkpoint,
// nor advertised before it is claimed there.
func TestKilledAtEachWrite(t *testing.T) {
	stages := map[string]func(n *testNode){
		"first device": func(n *testNode) { n.declare("a", 1, "dpdkResourceName: intel.com/fast") },
		"another resource": func(n *testNode) {
			n.declare("a", 1, "dpdkResourceName: intel.com/fast")
			n.settle()
			n.declare("a", 1, "dpdkResourceName: intel.com/faster")
		},
		"removed": func(n *testNode) {
			n.declare("a", 1, "dpdkResourceName: intel.com/fast")
			n.settle()
			n.undeclare("a")
		},
	}
	for name, arrange := range stages {
		for _, file := range []string{"state/checkpoint.json", "run/inventory.json", "pcidp/config.json"} {
			t.Run(name+" without "+file, func(t *testing.T) {
				whole := newNode(t, 1)
				arrange(whole)
				whole.settle()

				n := newNode(t, 1)
				arrange(n)
				unlock := n.locked(file)
				n.daemon.Sync(t.Context())
				unlock()
				n.checkOrder()
				n.start()
				n.sync()
				n.checkOrder()
				n.settle()
				n.expect(whole.rows(), whole.reasons(), whole.judge())
			})
		}
	}
}

func (n *testNode) checkOrder() {
	n.Helper()
	known := map[string]nodestate.CheckpointDevice{}
	owned := map[string]bool{}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
	if err == nil {
		for _, d := range c.Devices {
			known[d.ENIID.String()] = d
		}
		for _, r := range c.OwnedResources {
			owned[r.String()] = true
		}
	}
	inv, err := nodestate.ReadInventory(n.path("run/inventory.json"))
	if err == nil {
		for _, d := range inv.Devices {
			if d.Phase == nodestate.PhaseReady && known[d.ENIID.String()].PCIAddress != d.PCIAddress {
				n.Errorf("%s is ready, and the checkpoint does not have it", d.ENIID)
			}
		}
	}
	for pool := range n.judge() {
		if !owned[pool] {
			n.Errorf("pool %s is advertised, and the checkpoint does not know it as ours", pool)
		}
	}
}

// The inventory remembers devices in pods; entries in the daemon's form are ours again.
func TestLostCheckpoint(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"removed": os.Remove,
		"torn":    func(path string) error { return os.WriteFile(path, []byte(`{"schemaVersion":1,`), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, 2)
			n.declare("a", 1, "dpdkResourceName: intel.com/fast")
			n.declare("b", 2, "dpdkResourceName: intel.com/fast")
			n.settle()
			n.hold(2)
			n.must(lose(nodestate.CheckpointPath(n.path("state"))))
			n.start()
			n.settle()
			n.expect([]string{"a eth1 ready", "b eth2 ready"}, nil, pools{"intel.com/fast": {pci(1), pci(2)}})
		})
	}
}

// Another user's file is neither followed nor replaced silently.
func TestUntrustedCheckpoint(t *testing.T) {
	n := newNode(t)
	n.sync()
	path := nodestate.CheckpointPath(n.path("state"))
	n.must(os.Chmod(path, 0o666))
	if _, err := New(n.daemon.Options); err == nil {
		t.Error("no error for a checkpoint that anybody can write")
	}
}

func TestCorruptRecord(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	n.write("", "records", "c1-net1.json")
	n.must(os.Chmod(n.path("records/c1-net1.json"), 0o600))
	n.sync()
	n.expect([]string{"a eth1 ready"}, []string{"RecordUnreadable"}, nil)
}

func TestFileModes(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/fast")
	want := map[string]fs.FileMode{"run/inventory.json": 0o600, "state/checkpoint.json": 0o600, "pcidp/config.json": 0o644, "run": 0o700, "state": 0o700}
	got := map[string]fs.FileMode{}
	for path := range want {
		info, err := os.Stat(n.path(path))
		n.must(err)
		got[path] = info.Mode().Perm()
	}
	same(t, "modes", want, got)
}

// The device plugin may have read that config before the next daemon starts, which may want the earlier one again.
func TestKilledAfterTheConfigWasWritten(t *testing.T) {
	declare := func(n *testNode) { n.declare("a", 1, "dpdkResourceName: intel.com/a") }
	undeclare := func(n *testNode) { n.undeclare("a") }
	for name, story := range map[string]struct{ first, change, back func(*testNode) }{
		"added":   {func(*testNode) {}, declare, undeclare},
		"removed": {declare, undeclare, declare},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			story.first(n)
			n.settle()
			served, asked := n.view().Plugin.ServedHash, len(n.restarts.wanted)
			story.change(n)
			n.killedAt("device plugin config written")
			story.back(n)
			n.start()
			n.settle()
			if len(n.restarts.wanted) != asked+1 || n.restarts.last.Hash != served {
				t.Errorf("asked %d times, last for %s; want once more than %d, for %s", len(n.restarts.wanted), n.restarts.last.Hash, asked, served)
			}
		})
	}
}

// killedAt runs a Sync that ends, as by SIGKILL, at a line of its log.
func (n *testNode) killedAt(message string) {
	n.Helper()
	hooks := n.log.ReplaceHooks(logrus.LevelHooks{})
	n.log.AddHook(killAt(message))
	defer n.log.ReplaceHooks(hooks)
	defer func() {
		if got := recover(); got != (killed{}) {
			n.Fatalf("recovered %v, want the kill", got)
		}
	}()
	n.daemon.Sync(n.Context())
}

type killed struct{}

type killAt string

func (killAt) Levels() []logrus.Level { return logrus.AllLevels }

func (k killAt) Fire(e *logrus.Entry) error {
	if e.Message == string(k) {
		panic(killed{})
	}
	return nil
}
