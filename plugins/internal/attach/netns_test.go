package attach_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"encoding/json"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
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

// TestDelOfAnEarlierBoot: a netns with path, cookie and inode of one before the node's
// restart is another netns. No delegate is run in it.
func TestDelOfAnEarlierBoot(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	for boot, want := range map[string]string{e.inv.BootID: "/run/netns/c1", "6a1f4d0e-0000-4000-8000-000000000000": ""} {
		dir := t.TempDir()
		spy := "#!/bin/sh\necho -n \"$CNI_COMMAND $CNI_NETNS\" > " + filepath.Join(dir, "seen") + "\n"
		must(t, os.WriteFile(filepath.Join(dir, "spy"), []byte(spy), 0o755))
		e.pods = 0
		args := e.pod(nil)
		ns, err := link.OpenNetns(args.Netns)
		must(t, err)
		r, err := e.records().Begin(nodestate.Attachment{
			AttachmentID: nodestate.AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName}, BootID: boot, Netns: ns.Netns, Path: dir,
			Mode: nodestate.ModeShared, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}, Config: args.StdinData,
			Delegate: &nodestate.Delegation{Type: "spy", Config: json.RawMessage(`{"cniVersion":"1.1.0","name":"dataplane","type":"spy"}`)},
		})
		must(t, err)
		ns.Close()
		r.Close()
		if _, err := run(&attach.Plugin{}, "DEL", &skel.CmdArgs{ContainerID: args.ContainerID, IfName: args.IfName, Path: dir,
			StdinData: args.StdinData}); err != nil {
			t.Error(err)
		}
		seen, err := os.ReadFile(filepath.Join(dir, "seen"))
		must(t, err)
		if string(seen) != "DEL "+want {
			t.Errorf("the delegate of a record of boot %s was run with %q; want netns %q", boot, seen, want)
		}
		must(t, nstest.DeleteNetns(args.Netns))
	}
}
