package attach_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestUnreadableRecord: an unreadable record stays while nothing else tells the pod's
// device.
func TestUnreadableRecord(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := map[string]any{"select": map[string]any{"nodeENI": "a"}}
	args := e.pod(conf)
	e.add(args)
	path := e.file("records", args.ContainerID+"-net1.json")
	record, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.Replace(record, []byte(`"schemaVersion": 1`), []byte(`"schemaVersion": 2`), 1), 0o600))
	e.refused("DEL", args, 999, "another version", "schemaVersion 2")
	e.refused("ADD", args, 999, "another version")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the record of another version: %v", err)
	}
	must(t, os.WriteFile(path, record, 0o600))
	e.del(args)

	args = e.pod(conf)
	e.add(args)
	path = e.file("records", args.ContainerID+"-net1.json")
	must(t, os.WriteFile(path, record[:100], 0o600))
	inventory, err := os.ReadFile(e.file("inventory.json"))
	must(t, err)
	must(t, os.Remove(e.file("inventory.json")))
	e.refused("DEL", args, 11, "corrupt", "inventory.json")
	must(t, os.WriteFile(e.file("inventory.json"), inventory, 0o600))
	e.del(args)
	links := e.snapshot()
	if _, err := os.Stat(path); err == nil || !strings.Contains(links, "Name:eth1") {
		t.Errorf("after DEL by the inventory: record %v, %s", err, links)
	}
}

// TestAbsentPlugin: a pod can end without its address plugin if that was never installed.
// With a torn record, which may be of that plugin's address, DEL waits for the plugin.
func TestAbsentPlugin(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "absent"}})
	e.refused("ADD", args, 999, "absent", "not found")
	e.del(args)
	must(t, os.MkdirAll(e.file("records"), 0o700))
	must(t, os.WriteFile(e.file("records", args.ContainerID+"-net1.json"), nil, 0o600))
	e.refused("DEL", args, 999, "absent", "not found")
}

func TestHostileRecords(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	victim := e.file("victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o644))
	must(t, os.MkdirAll(e.file("records"), 0o700))
	plant := func(name, target string) { must(t, os.Symlink(target, e.file("records", name))) }
	plant("c1-net1.json", victim)
	plant(".c2-net1.json.tmp", victim)
	plant("x-net1.json", "/dev/zero")
	must(t, os.MkdirAll(e.file("records", "locks"), 0o700))

	first, second := e.pod(e.selectA()), e.pod(e.selectA())
	e.refused("ADD", first, 999, "symbolic link")
	e.refused("DEL", first, 999, "symbolic link")
	if _, err := run(&attach.Plugin{}, "ADD", second); err == nil {
		t.Error("ADD wrote through a symbolic link in place of its temporary file")
	}
	must(t, os.Remove(e.file("records", ".c2-net1.json.tmp")))
	must(t, os.WriteFile(e.file("records", "y-net1.json"), forged(e), 0o666))
	must(t, os.Chmod(e.file("records", "y-net1.json"), 0o666))
	e.add(second) // a record that others could have written holds nothing
	e.del(second)
	plant("locks/"+eniB.PCI+".lock", victim)
	if _, err := run(&attach.Plugin{}, "ADD", e.pod(map[string]any{"select": map[string]any{"nodeENI": "b"}})); err == nil {
		t.Error("ADD followed a symbolic link in place of a lock")
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
		t.Errorf("victim = %q, %v", data, err)
	}
}

func forged(e *env) []byte {
	a := nodestate.Attachment{
		SchemaVersion: 1, AttachmentID: nodestate.AttachmentID{ContainerID: "y", IfName: "net1"}, State: nodestate.StateComplete,
		Mode: nodestate.ModeExclusive, BootID: e.inv.BootID, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"},
		Config: json.RawMessage("{}"), Delegate: &nodestate.Delegation{Type: "evil", Config: json.RawMessage("{}")},
	}
	data, _ := json.Marshal(a)
	return data
}

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
