package doctor

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestFileFaults: each odd file or folder gives one finding.
func TestFileFaults(t *testing.T) {
	find(t, map[string]fault{
		"config is a ConfigMap": {func(w *world) {
			w.must(os.Remove(w.o.PCIDPConfig))
			w.must(os.Symlink("..data/config.json", w.o.PCIDPConfig))
		}, Fail, "device plugin config", []string{"..data/config.json", "hostPath"}},
		"config is a folder": {func(w *world) { w.must(os.Remove(w.o.PCIDPConfig)); w.must(os.Mkdir(w.o.PCIDPConfig, 0o755)) },
			Fail, "device plugin config", []string{"--pcidp-config"}},
		"config is no JSON": {func(w *world) { w.write("etc/pcidp/config.json", "{", 0o644) }, Warn, "device plugin config", []string{"not JSON"}},
		"config's folder is a file": {func(w *world) { w.must(os.RemoveAll(w.path("etc/pcidp"))); w.write("etc/pcidp", "", 0o644) },
			Fail, "device plugin config", []string{"/node/etc/pcidp is no folder"}},
		"inventory of another boot": {func(w *world) { w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: "x"}) }, Warn, "inventory",
			[]string{"earlier boot"}},
		"inventory of another node": {func(w *world) { w.inventory(nodestate.Inventory{NodeName: "node-b", BootID: bootID}) }, Warn, "inventory",
			[]string{"node-b", "node-a"}},
		"inventory torn": {func(w *world) { w.write("run/inventory.json", "{", 0o600) }, Fail, "inventory", []string{"writes it anew"}},
		"problems": {func(w *world) {
			w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Problems: []nodestate.Problem{{Reason: "X", Message: "x"}}})
		}, Warn, "inventory", []string{"problems: 1", "multi-enid status"}},
		"state folder open": {func(w *world) { w.must(os.Chmod(w.o.StateDir, 0o777)) }, Fail, "state folder", []string{"chmod 0700 /node/state"}},
		"records open":      {func(w *world) { w.must(os.Chmod(w.o.AttachmentsDir, 0o770)) }, Fail, "attachment records", []string{"mode 0770", "chmod 0700"}},
		"records linked": {func(w *world) {
			w.must(os.Rename(w.o.AttachmentsDir, w.path("elsewhere")))
			w.must(os.Symlink("elsewhere", w.o.AttachmentsDir))
		}, Fail, "attachment records", []string{"no folder"}},
		"record torn": {func(w *world) { w.write("records/c1-net1.json", "{", 0o600) }, Warn, "attachment records", []string{"c1-net1.json", "remove the file"}},
		"sysfs empty": {func(w *world) {
			w.must(os.RemoveAll(w.path("sys/bus/pci/devices")))
			w.must(os.Mkdir(w.path("sys/bus/pci/devices"), 0o755))
		}, Fail, "sysfs", []string{"--sysfs"}},
		"sysfs not mounted": {func(w *world) { w.must(os.RemoveAll(w.path("sys/bus/pci/devices"))) }, Fail, "sysfs", []string{"--sysfs"}},
		"state folder is a file": {func(w *world) { w.must(os.Remove(w.o.StateDir)); w.write("state", "", 0o600) },
			Fail, "state folder", []string{"/node/state is no folder but a ----------", "correct the flag"}},
		"checkpoint torn": {func(w *world) { w.write("state/checkpoint.json", "{", 0o600) }, Warn, "state folder",
			[]string{"checkpoint.json", "finds the devices again"}},
		"checkpoint of another version": {func(w *world) { w.write("state/checkpoint.json", `{"schemaVersion":2}`, 0o600) }, Warn, "state folder",
			[]string{"schemaVersion 2", "run the version of multi-enid that wrote it"}},
		"checkpoint is a folder": {func(w *world) { w.must(os.Mkdir(w.path("state/checkpoint.json"), 0o700)) }, Fail, "state folder",
			[]string{"multi-enid does not start until then"}},
	})
}

// unprivileged has file modes bind the test's own thread, even root's.
func unprivileged(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread is lost
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&h, &none[0]); err != nil {
		t.Fatal(err)
	}
}

// TestFilesUnreadable: a file that cannot be read or written is never taken for a missing one.
func TestFilesUnreadable(t *testing.T) {
	for name, tt := range map[string]struct {
		path  string
		mode  os.FileMode
		check func(context.Context, Options) []Finding
		want  string // how the last finding begins
	}{
		"config": {"etc/pcidp/config.json", 0, config,
			"FAIL device plugin config: open /node/etc/pcidp/config.json: permission denied; make it readable for the daemon"},
		"config's folder":   {"etc/pcidp", 0o500, config, "FAIL device plugin config: folder /node/etc/pcidp is not writable: permission denied; mount it writable"},
		"folder above":      {"etc", 0, config, "FAIL device plugin config: stat /node/etc/pcidp: permission denied; mount the node's folder"},
		"inventory":         {"run/inventory.json", 0, inventoryFile, "FAIL inventory: "},
		"state folder":      {"state", 0o500, stateDir, "FAIL state folder: /node/state is not writable: permission denied; mount it writable"},
		"checkpoint":        {"state/checkpoint.json", 0, stateDir, "FAIL state folder: "},
		"records":           {"records", 0o500, attachments, "FAIL attachment records: /node/records is not writable: permission denied"},
		"policy":            {"etc/policy.json", 0, policy, "FAIL policy: "},
		"sysfs":             {"sys/bus/pci/devices", 0, sysfsTree, "FAIL sysfs: "},
		"folder of drivers": {"sys/bus/pci/drivers", 0, drivers, "warn drivers: "},
	} {
		t.Run(name, func(t *testing.T) {
			unprivileged(t)
			w := newWorld(t)
			w.write("state/checkpoint.json", `{"schemaVersion":1}`, 0o600)
			w.must(os.Chmod(w.path(tt.path), tt.mode))
			t.Cleanup(func() { os.Chmod(w.path(tt.path), 0o700) }) //nolint:errcheck // for the removal
			w.says(func(ctx context.Context, o Options) []Finding {
				all := tt.check(ctx, o)
				return all[len(all)-1:]
			}, tt.want)
		})
	}
}

// TestWritable: the daemon makes a missing folder. It replaces no file.
func TestWritable(t *testing.T) {
	w := newWorld(t)
	check := func(folder string) func(context.Context, Options) []Finding {
		return func(context.Context, Options) []Finding { return writable("x", w.path(folder)) }
	}
	w.says(check("state"))
	w.says(check("nowhere"), "warn x: there is no folder /node/nowhere; make it, in a pod by a hostPath volume")
	w.says(check("etc/policy.json"), "FAIL x: /node/etc/policy.json is no folder; remove it, or correct the flag")
	w.says(check("etc/policy.json/x"), "FAIL x: stat /node/etc/policy.json/x: not a directory; mount the node's folder")
}

// TestFirstStart: before the first start nothing is there, and only the inventory is missed.
func TestFirstStart(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"run/inventory.json", "state", "records", "etc/pcidp/config.json"} {
		w.must(os.RemoveAll(w.path(name)))
	}
	w.says(config, "ok device plugin config: /node/etc/pcidp/config.json is not written yet, its folder is writable")
	w.says(inventoryFile, "warn inventory: /node/run/inventory.json is not there; start multi-enid run; until it is there, pods that name a NodeENI wait")
	w.says(stateDir, "ok state folder: /node/state does not exist yet")
	w.says(attachments, "ok attachment records: /node/records: 0, of pods of this boot: 0")
	w.must(os.RemoveAll(w.path("run")))
	w.says(inventoryFile, "warn inventory: there is no folder /node/run; make it")
}

func TestPhases(t *testing.T) {
	w := newWorld(t)
	var devices []nodestate.Device
	for _, phase := range []nodestate.Phase{nodestate.PhaseReady, nodestate.PhaseReady, nodestate.PhasePending, nodestate.PhaseDraining} {
		devices = append(devices, nodestate.Device{NodeENI: "fast", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0", Phase: phase})
	}
	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Devices: devices})
	w.says(inventoryFile, "ok inventory: devices: 2 ready, 1 pending, 1 draining; no problems")
	w.o.NodeName = "" // then its name is another finding
	w.inventory(nodestate.Inventory{NodeName: "node-b", BootID: bootID})
	w.says(inventoryFile, "ok inventory: devices: 0 ready")
}

// TestKeptCheckpoint: a checkpoint that another version has left is named.
func TestKeptCheckpoint(t *testing.T) {
	w := newWorld(t)
	w.must(nodestate.WriteCheckpoint(nodestate.CheckpointPath(w.o.StateDir), nodestate.Checkpoint{BootID: bootID}))
	w.says(stateDir, "ok state folder: /node/state has mode 0700")
	w.write("state/checkpoint.json", `{"schemaVersion":2}`, 0o600)
	w.says(stateDir, "ok state folder: ", "warn state folder: ")
}

func TestRecords(t *testing.T) {
	w := newWorld(t)
	w.record("c1", nil)
	w.record("c2", func(a *nodestate.Attachment) { a.BootID = "x" })
	if got := w.report(); !strings.Contains(got, "attachment records: /node/records: 2, of pods of this boot: 1\n") {
		t.Errorf("report:\n%s", got)
	}
}
