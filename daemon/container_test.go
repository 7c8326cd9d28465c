package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/install"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// container is a daemon that is process 1 of a PID namespace, as in the DaemonSet.
type container struct {
	cmd   *exec.Cmd
	said  *lockedBuffer
	ended chan struct{}
}

func (m *machine) container(more ...string) *container {
	m.Helper()
	binary, err := nstest.Binary("multi-enid")
	must(m, err)
	c := &container{said: &lockedBuffer{}, ended: make(chan struct{})}
	c.cmd = exec.CommandContext(m.Context(), binary, append(m.args(), more...)...)
	c.cmd.Stderr = c.said
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	c.cmd.WaitDelay = time.Second // a helper has our end of Stderr
	must(m, c.cmd.Start())
	go func() {
		defer close(c.ended)
		c.cmd.Wait() //nolint:errcheck // it was killed
	}()
	return c
}

// over says whether the container has ended, so that its runtime could remove it.
func (c *container) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// eventually polls until ok, for at most 40 s.
func (m *machine) eventually(what string, ok func() bool) {
	m.Helper()
	for begin := time.Now(); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Since(begin) > 40*time.Second {
			m.Fatalf("not within 40 s: %s", what)
		}
	}
}

func helpers(t *testing.T) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), "\x00bind-driver\x00") {
			var pid int
			if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestHelperThatHangsHoldsTheContainer is an upgrade while the kernel does not let a device go. The old container cannot end before its
// helper, not even by SIGKILL. The new daemon serves the other devices and reports the one that hangs, until the kernel lets go.
func TestHelperThatHangsHoldsTheContainer(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1, 2)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	pci := eniOf(1).PCI
	for _, driver := range []string{"ena", "uio_pci_generic"} {
		must(m, os.MkdirAll(filepath.Join(m.node.Sysfs, "bus/pci/drivers", driver), 0o755))
	}
	must(m, os.WriteFile(filepath.Join(m.node.Sysfs, "bus/pci/devices", pci, "driver_override"), []byte("(null)\n"), 0o644))
	stuck, err := nstest.NewStuck(filepath.Join(m.node.Sysfs, "bus/pci/drivers/ena"))
	if err != nil {
		t.Skip(err)
	}
	defer stuck.LetGo() //nolint:errcheck // for a test that has failed
	m.declare("a", 1, "enableDPDK: true", "dpdkDriver: uio_pci_generic", "dpdkResourceName: intel.com/fast")
	old := m.container()
	select {
	case <-stuck.Asked:
	case <-time.After(30 * time.Second):
		t.Fatalf("the device is not unbound\n%s", old.said)
	}
	helper := helpers(t)
	if len(helper) != 1 {
		t.Fatalf("helpers %v", helper)
	}

	must(m, old.cmd.Process.Kill()) // as the runtime does after the grace period
	must(m, unix.Kill(helper[0], unix.SIGKILL))
	m.eventually("the state folder is free", func() bool {
		unlock, err := install.LockState(m.path("state"))
		if err == nil {
			unlock()
		}
		return err == nil
	})
	if old.over() {
		t.Error("the container has ended, though its helper hangs")
	}

	m.declare("b", 2)
	next := m.container()
	m.until("a pending", "b ready")
	m.eventually("the device that hangs is told of, and nothing else is", func() bool {
		inv, err := nodestate.ReadInventory(m.path("run/inventory.json"))
		return err == nil && len(inv.Problems) == 1 && inv.Problems[0].Reason == "DriverStuck"
	})
	if gone := unix.Kill(helper[0], 0); old.over() || gone != nil {
		t.Errorf("the old container is over: %v; its helper: %v", old.over(), gone)
	}

	must(m, stuck.LetGo())
	m.eventually("the old container ends", old.over)
	m.eventually("nothing hangs any more", func() bool {
		inv, err := nodestate.ReadInventory(m.path("run/inventory.json"))
		return err == nil && !slices.ContainsFunc(inv.Problems, func(p nodestate.Problem) bool { return p.Reason == "DriverStuck" })
	})
	must(m, next.cmd.Process.Signal(unix.SIGTERM))
	m.eventually("the new daemon ends", next.over)
}

// TestHostHasTheMount: the daemon restores a link's accept_ra in the folder of --sysctls. A container cannot write the kernel's own folder.
func TestHostHasTheMount(t *testing.T) {
	c := nodeFlags{sysctls: "/host/proc/sys"}
	h, err := c.openHost()
	must(t, err)
	defer h.Close()
	if h.IPv6Conf != "/host/proc/sys/net/ipv6/conf" {
		t.Errorf("the host's IPv6 settings are in %q, want the folder of --sysctls", h.IPv6Conf)
	}
}
