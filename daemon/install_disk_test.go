package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// mountAt mounts a small file system of its own over the folder of plugins.
func (i installation) mountAt(options string) {
	i.Helper()
	must(i, os.MkdirAll(i.to, 0o755))
	must(i, unix.Mount("tmpfs", i.to, "tmpfs", 0, options))
	i.Cleanup(func() {
		if err := unix.Unmount(i.to, unix.MNT_DETACH); err != nil {
			i.Error(err)
		}
	})
}

// big is a plugin of more octets than the file system has.
func big(version string) string { return plugin(version) + "exit\n" + strings.Repeat("#", 1<<20) }

// TestInstallOnFullDisk: the old plugin stays, and nothing beside it.
func TestInstallOnFullDisk(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	i := newInstallation(t)
	i.mountAt("mode=0755,size=256k")
	i.want("installed, none → v1", plugin("v1"))
	i.provide(big("v2"))
	code, _, stderr := i.install()
	if code != cli.Failure || !strings.Contains(stderr, "no space left on device") || !strings.Contains(stderr, i.to) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	i.holds(plugin("v1"))
	i.provide(plugin("v3"))
	i.want("installed, v1 → v3", plugin("v3"))
}

// TestInstallOnReadOnlyDisk: the message names the folder, and the old plugin stays. An equal plugin is not written.
func TestInstallOnReadOnlyDisk(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	i := newInstallation(t)
	i.mountAt("mode=0755")
	i.want("installed, none → v1", plugin("v1"))
	must(t, unix.Mount("", i.to, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	i.want("already installed, v1", plugin("v1"))
	i.provide(plugin("v2"))
	code, _, stderr := i.install()
	if code != cli.Failure || !strings.Contains(stderr, "read-only file system") || !strings.Contains(stderr, i.to) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	i.holds(plugin("v1"))
}

// TestInstallWithoutRoomForThePolicy installs no plugin either: without its policy it would believe its netconfs.
func TestInstallWithoutRoomForThePolicy(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	i := newInstallation(t)
	dir := filepath.Dir(i.policy)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	code, _, stderr := i.install()
	if code != cli.Failure || !strings.Contains(stderr, "write policy") || !strings.Contains(stderr, "read-only file system") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if entries, err := os.ReadDir(i.to); err != nil || len(entries) > 0 {
		t.Errorf("target folder has %v, %v; want nothing", entries, err)
	}
}

// TestInstallAfterAKilledOne removes the temporary file of a killed install.
func TestInstallAfterAKilledOne(t *testing.T) {
	i := newInstallation(t)
	must(t, os.MkdirAll(i.to, 0o755))
	must(t, os.WriteFile(filepath.Join(i.to, ".multi-eni.tmp"), bytes.Repeat([]byte("half"), 1000), 0o600))
	i.want("installed, none → v1", plugin("v1"))
}

// TestInstallIsAlone: a second install into the folder says so, and how to go on.
func TestInstallIsAlone(t *testing.T) {
	i := newInstallation(t)
	i.want("installed, none → v1", plugin("v1"))
	dir, err := os.Open(i.to)
	must(t, err)
	must(t, unix.Flock(int(dir.Fd()), unix.LOCK_EX))
	i.provide(plugin("v2"))
	if code, _, stderr := i.install(); code != cli.Failure || !strings.Contains(stderr, "another install") || !strings.Contains(stderr, i.to) {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	i.holds(plugin("v1"))
	dir.Close()
	i.want("installed, v1 → v2", plugin("v2"))
}

// TestInstallKeepsALinkedPolicy: a symbolic link is somebody's decision. The plugin refuses a link that it must not follow.
func TestInstallKeepsALinkedPolicy(t *testing.T) {
	i := newInstallation(t)
	must(t, os.MkdirAll(filepath.Dir(i.policy), 0o755))
	must(t, os.Symlink("nowhere", i.policy))
	i.want("kept as it is", plugin("v1"))
	if target, err := os.Readlink(i.policy); err != nil || target != "nowhere" {
		t.Errorf("link to %q, %v", target, err)
	}
}
