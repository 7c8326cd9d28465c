package attach_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestNetnsOfAProcess: a runtime that names a netns by a process may never call DEL. The
// device is free when no process is in its netns.
func TestNetnsOfAProcess(t *testing.T) {
	const inside = "MULTI_ENI_TEST_PIDNS"
	if os.Getenv(inside) == "" {
		if nstest.Outside(t) {
			return
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("in a PID namespace of its own: %v\n%s", err, out)
		}
		return
	}
	must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", MAC: "02:00:00:00:00:0b", NoLink: true}
	e := newEnv(t, vfio)
	r := row(vfio, "c")
	r.Driver, r.InterfaceName, r.MAC = "vfio-pci", "", device.MAC(vfio.MAC)
	e.inv.Devices = append(e.inv.Devices, r)
	e.writeInventory()
	sandbox := func(in string) *exec.Cmd {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sleep", "1000")
		start := cmd.Start
		if in == "" {
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		} else {
			start = func() error { return nstest.In(in, cmd.Start) }
		}
		must(t, start())
		t.Cleanup(func() {
			cmd.Process.Kill() //nolint:errcheck // it may have ended
			cmd.Wait()         //nolint:errcheck // it was killed
		})
		return cmd
	}
	end := func(cmd *exec.Cmd) {
		t.Helper()
		must(t, cmd.Process.Kill())
		cmd.Wait() //nolint:errcheck // it was killed
	}
	first := sandbox("")
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "c"}})
	args.Netns = fmt.Sprintf("/proc/%d/ns/net", first.Process.Pid)
	e.add(args)
	container := sandbox(args.Netns)
	end(first)
	next := e.pod(map[string]any{"select": map[string]any{"nodeENI": "c"}})
	e.refused("ADD", next, 101, "pod shop/pod-c1")
	end(container)
	e.add(next)
	e.del(next)
	e.del(args)
	if left, _, err := e.records().List(); len(left) > 0 || err != nil {
		t.Errorf("records left: %v, %v", left, err)
	}
}
