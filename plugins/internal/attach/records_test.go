package attach_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

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
