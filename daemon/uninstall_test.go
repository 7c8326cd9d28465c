package main

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/install"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type uninstallable struct {
	installation
	records, state, inventory, leases string
}

func newUninstallable(t *testing.T) uninstallable {
	t.Helper()
	i := newInstallation(t)
	i.want("installed", plugin("v1"))
	dir := filepath.Dir(i.from)
	u := uninstallable{i, filepath.Join(dir, "cni/multi-eni"), filepath.Join(dir, "state"), filepath.Join(dir, "run/inventory.json"),
		filepath.Join(dir, "cni/eni-ipam")}
	for _, d := range []string{u.records, u.state, filepath.Dir(u.inventory)} {
		must(u, os.MkdirAll(d, 0o700))
	}
	must(u, nodestate.WriteInventory(u.inventory, nodestate.Inventory{NodeName: "node-a"}))
	u.checkpoint()
	u.lease(leases.Cooling)
	unlock, err := nodestate.AttachmentDir(u.records).LockDevice(t.Context(), "0000:00:06.0")
	must(u, err)
	unlock()
	unlock, err = install.LockState(u.state)
	must(u, err)
	unlock()
	return u
}

func (u uninstallable) checkpoint(devices ...nodestate.CheckpointDevice) {
	u.Helper()
	must(u, nodestate.WriteCheckpoint(nodestate.CheckpointPath(u.state), nodestate.Checkpoint{Devices: devices}))
}

func (u uninstallable) record() {
	u.Helper()
	r, err := nodestate.AttachmentDir(u.records).Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}, Mode: nodestate.ModeExclusive,
		Netns: nodestate.Netns{Path: "/run/netns/c1", Inode: 1}, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"},
	})
	must(u, err)
	r.Close()
}

// lease puts an address of this boot into a state.
func (u uninstallable) lease(state leases.State) {
	u.Helper()
	boot := thisBoot(u.T)
	l, err := leases.Dir(u.leases).Lock(u.Context(), boot, "eni-0a1b2c3d4e5f60001")
	must(u, err)
	defer l.Close()
	l.Leases.Leases = []leases.Lease{{Address: netip.MustParseAddr("10.0.1.16"), State: state,
		AttachmentID: nodestate.AttachmentID{ContainerID: "c3", IfName: "net1"}}}
	must(u, l.Save())
}

func (u uninstallable) run(args ...string) (code int, stdout, stderr string) {
	return call(u.Context(), nil, append([]string{
		"uninstall", "--from", u.to, "--policy", u.policy, "--attachments-dir", u.records, "--state-dir", u.state, "--inventory", u.inventory, "--lease-dir",
		u.leases, "--kubelet-dir", filepath.Dir(u.from), "--device-info-dir", u.path("devinfo"),
	}, args...)...)
}

// path returns the path of a file of the node.
func (u uninstallable) path(name string) string { return filepath.Join(filepath.Dir(u.from), name) }

// left returns the files below the node's folder, except the source of install.
func (u uninstallable) left() (files []string) {
	u.Helper()
	root := filepath.Dir(u.from)
	must(u, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Dir(path) != u.from {
			files = append(files, strings.TrimPrefix(path, root+"/"))
		}
		return err
	}))
	return files
}

func TestUninstall(t *testing.T) {
	u := newUninstallable(t)
	must(u, os.WriteFile(filepath.Join(u.to, "bridge"), nil, 0o755))
	must(u, os.WriteFile(atomicfile.TempPath(filepath.Join(u.to, "multi-eni")), nil, 0o600)) // of an install that was killed
	code, stdout, stderr := u.run()
	if code != 0 || stderr != "" || !strings.Contains(stdout, filepath.Join(u.to, "multi-eni")+": removed") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
	if got, want := u.left(), []string{"opt/cni/bin/bridge"}; !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
	for _, dir := range []string{u.records, u.leases, u.state, filepath.Dir(u.inventory)} {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if code, stdout, stderr := u.run(); code != 0 || stderr != "" || strings.Contains(stdout, "multi-eni: removed") {
		t.Errorf("again: exit code %d, %q, %q", code, stdout, stderr)
	}
}

// TestUninstallOfAnOffer: the daemon's sockets go, and its device-info files. Those of others stay, as all do in the mode pcidp.
func TestUninstallOfAnOffer(t *testing.T) {
	const socket, info = "device-plugins/multi-eni-0123456789abcdef.sock", "devinfo/intel.com-net_a-0000:00:06.0-device.json"
	others := []string{"device-plugins/kubelet.sock", "device-plugins/kubelet_internal_checkpoint", "devinfo/intel.com-net_a-b-0000:00:06.0-device.json",
		"devinfo/intel.com-net_b-0000:00:07.0-device.json", "devinfo/intel.com-net_a-mlx5_core.sf.2-device.json"}
	for mode, kept := range map[nodestate.OfferMode][]string{nodestate.OfferDevicePlugin: others, nodestate.OfferPCIDP: append([]string{info}, others...)} {
		u := newUninstallable(t)
		must(u, nodestate.WriteCheckpoint(nodestate.CheckpointPath(u.state), nodestate.Checkpoint{
			Offer: nodestate.OfferMemory{Mode: mode, Names: []device.ResourceName{"intel.com/net_a"}}}))
		for _, name := range append([]string{socket, info}, others...) {
			must(u, os.MkdirAll(filepath.Dir(u.path(name)), 0o750))
			must(u, os.WriteFile(u.path(name), nil, 0o600))
		}
		if code, stdout, stderr := u.run(); code != 0 || stderr != "" || !strings.Contains(stdout, u.path(socket)+": removed") {
			t.Errorf("mode %s: exit code %d, %q, %q", mode, code, stdout, stderr)
		}
		want := slices.Sorted(slices.Values(kept))
		if got := u.left(); !slices.Equal(got, want) {
			t.Errorf("mode %s: left %q, want %q", mode, got, want)
		}
	}
}

// TestUninstallRefuses: a node in use keeps its files, and a changed policy stays.
func TestUninstallRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		arrange func(u uninstallable)
		want    string
		forced  string // a file that --force leaves
	}{
		"an attachment": {uninstallable.record, "attachment c1-net1 of device 0000:00:06.0", "cni/multi-eni/c1-net1.json"},
		"an unreadable record": {func(u uninstallable) {
			must(u, os.WriteFile(filepath.Join(u.records, "c2-net1.json"), []byte("{"), 0o600))
		}, "an attachment record that cannot be read", "cni/multi-eni/c2-net1.json"},
		"a lease": {func(u uninstallable) { u.lease(leases.Held) }, "address 10.0.1.16, leased to c3-net1", "state/checkpoint.json"},
		"a device to give back": {func(u uninstallable) {
			must(u, nodestate.AttachmentDir(u.records).SaveRestore(nodestate.Restore{Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}}))
		}, "device 0000:00:06.0, not given back yet", "cni/multi-eni/restore/0000:00:06.0.json"},
		"a bound device": {func(u uninstallable) {
			u.checkpoint(nodestate.CheckpointDevice{Device: nodestate.Device{NodeENI: "fast", ENIID: "eni-0a1b2c3d4e5f60001", MAC: "02:00:00:00:00:0a",
				PCIAddress: "0000:00:06.0", Driver: "vfio-pci", Phase: nodestate.PhaseReady}})
		}, "device 0000:00:06.0 of NodeENI fast, bound to vfio-pci", "state/checkpoint.json"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUninstallable(t)
			tt.arrange(u)
			before := u.left()
			code, stdout, stderr := u.run()
			if code != cli.Failure || stdout != "" || !strings.Contains(stderr, tt.want) || !strings.Contains(stderr, "--force") {
				t.Errorf("exit code %d, %q, %q; want %q", code, stdout, stderr, tt.want)
			}
			if got := u.left(); !slices.Equal(got, before) {
				t.Errorf("files %q, want %q", got, before)
			}
			if code, stdout, stderr := u.run("--force"); code != 0 || !strings.Contains(stdout, "left behind: ") {
				t.Errorf("by force: exit code %d, %q, %q", code, stdout, stderr)
			}
			got := u.left()
			if slices.Contains(got, "opt/cni/bin/multi-eni") || !slices.Contains(got, tt.forced) {
				t.Errorf("files after --force %q, want %q among them", got, tt.forced)
			}
		})
	}
	t.Run("a changed policy", func(t *testing.T) {
		u := newUninstallable(t)
		must(u, os.WriteFile(u.policy, []byte(`{"schemaVersion":1}`), 0o644))
		if code, stdout, stderr := u.run(); code != 0 || !strings.Contains(stdout, u.policy+": kept") || !slices.Contains(u.left(), "etc/policy.json") {
			t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
		}
	})
	t.Run("a plugin that stays", func(t *testing.T) {
		u := newUninstallable(t)
		plugin := filepath.Join(u.to, "multi-eni")
		must(u, os.Remove(plugin))
		must(u, os.MkdirAll(filepath.Join(plugin, "x"), 0o755)) // cannot be removed, not even by root
		if code, _, stderr := u.run(); code != cli.Failure || !strings.Contains(stderr, plugin) || !slices.Contains(u.left(), "etc/policy.json") {
			t.Errorf("exit code %d, %q; want its policy kept, left: %q", code, stderr, u.left())
		}
	})
	t.Run("a running daemon", func(t *testing.T) {
		u := newUninstallable(t)
		unlock, err := install.LockState(u.state)
		must(u, err)
		defer unlock()
		if code, _, stderr := u.run("--force"); code != cli.Failure || !strings.Contains(stderr, "delete its DaemonSet first") {
			t.Errorf("exit code %d, %q", code, stderr)
		}
	})
	t.Run("an installer", func(t *testing.T) {
		u := newUninstallable(t)
		dir, err := os.Open(u.to)
		must(u, err)
		defer dir.Close()
		must(u, unix.Flock(int(dir.Fd()), unix.LOCK_EX))
		if code, _, stderr := u.run("--force"); code != cli.Failure || !strings.Contains(stderr, "another install") {
			t.Errorf("exit code %d, %q", code, stderr)
		}
	})
}
