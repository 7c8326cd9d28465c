package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func options(dir string) Options {
	log, _ := logtest.NewNullLogger()
	return Options{
		NodeName: "node-a", BootID: "boot", InventoryPath: filepath.Join(dir, "inventory.json"), StateDir: dir, ConfigPath: filepath.Join(dir, "config.json"),
		Now: time.Now, Log: log,
	}
}

func open(t *testing.T, o Options) *Files {
	t.Helper()
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var eni = nodestate.Device{
	ENIID: "eni-00000000000000001", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:07.0", ResourceName: "intel.com/a", Phase: nodestate.PhaseReady,
}

// TestOpen: a lost checkpoint is made of this boot's inventory and the config's own entries.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	f := open(t, options(dir))
	if !f.Checkpoint.Forgotten || len(f.Checkpoint.Devices) > 0 {
		t.Errorf("without files: %+v", f.Checkpoint)
	}
	if err := f.WriteInventory([]nodestate.Device{eni}, nil); err != nil {
		t.Fatal(err)
	}
	config := `{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"a","selectors":{"drivers":["ena"],"pciAddresses":["0000:00:07.0"]}}]}`
	if err := os.WriteFile(f.ConfigPath, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, options(dir)).Checkpoint
	if len(c.Devices) != 1 || !c.Devices[0].Advertised || len(c.OwnedResources) != 1 || c.OwnedResources[0] != "intel.com/a" {
		t.Errorf("of the inventory: %+v", c)
	}
	other := options(dir)
	other.BootID = "later"
	if c := open(t, other).Checkpoint; len(c.Devices) > 0 {
		t.Errorf("of another boot's inventory: %+v", c)
	}
}

// TestSave: a change is written once, and a removed file again.
func TestSave(t *testing.T) {
	f := open(t, options(t.TempDir()))
	path := nodestate.CheckpointPath(f.StateDir)
	save := func() {
		t.Helper()
		if err := f.Save(f.Sign); err != nil {
			t.Fatal(err)
		}
	}
	save()
	before := markOf(path)
	if save(); !before.same(path) {
		t.Error("written without a change")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if save(); markOf(path).info == nil {
		t.Error("a removed file is not written again")
	}
}

// TestOthersFiles: files of another node are refused, and another instance's devices forgotten.
func TestOthersFiles(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.Instance = func() string { return "i-1" }
	f := open(t, o)
	err := f.Save(func(c *nodestate.Checkpoint) {
		f.Sign(c)
		c.Devices = []nodestate.CheckpointDevice{{Device: eni}}
	})
	if err != nil {
		t.Fatal(err)
	}
	renamed := o
	renamed.NodeName = "node-b"
	var other *OtherNodeError
	if _, err := Open(renamed); !errors.As(err, &other) || other.Was != "node-a" || other.Is != "node-b" {
		t.Errorf("error %v, want an OtherNodeError", err)
	}
	renamed.RenamedFrom = "node-a"
	if c := open(t, renamed).Checkpoint; len(c.Devices) != 1 {
		t.Errorf("renamed: %+v", c)
	}
	o.Instance = func() string { return "i-2" }
	if f := open(t, o); len(f.Checkpoint.Devices) > 0 || f.Checkpoint.Instance != "i-2" || f.ForgetOtherInstance() {
		t.Errorf("of another instance: %+v", f.Checkpoint)
	}
}
