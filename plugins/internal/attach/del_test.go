package attach_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestDelWhateverHappened: DEL succeeds in every case of the design's list, and releases
// address and device.
func TestDelWhateverHappened(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	record := func(e *env, args *skel.CmdArgs) string {
		return e.file("records", args.ContainerID+"-"+args.IfName+".json")
	}
	tests := map[string]struct {
		happen func(e *env, args *skel.CmdArgs)
		gone   bool // the veth died with its netns
	}{
		"netns gone": {func(e *env, args *skel.CmdArgs) {
			must(e.t, nstest.DeleteNetns(args.Netns))
			must(e.t, os.RemoveAll(filepath.Join(e.node.Sysfs, "bus/pci/devices", eniA.PCI)))
		}, true},
		"netns path reused": {func(e *env, args *skel.CmdArgs) {
			must(e.t, nstest.DeleteNetns(args.Netns))
			must(e.t, nstest.NewNetns(args.Netns))
			must(e.t, os.RemoveAll(filepath.Join(e.node.Sysfs, "bus/pci/devices", eniA.PCI)))
		}, true},
		"no netns given": {func(_ *env, args *skel.CmdArgs) { args.Netns = "" }, false},
		"device gone":    {func(e *env, _ *skel.CmdArgs) { must(e.t, e.node.Detach(eniA)) }, true},
		"device back in the host under another name": {func(e *env, args *skel.CmdArgs) {
			moveHome(e.t, args, "stray0")
		}, false},
		"inventory gone": {func(e *env, _ *skel.CmdArgs) { must(e.t, os.Remove(e.file("inventory.json"))) }, false},
		"netconf changed": {func(e *env, args *skel.CmdArgs) {
			args.StdinData = e.conf(map[string]any{"name": "other", "select": map[string]any{"nodeENI": "b"}, "bogus": 1, "ipam": map[string]any{"type": "static"}})
		}, false},
		"record gone": {func(e *env, args *skel.CmdArgs) { must(e.t, os.Remove(record(e, args))) }, false},
		"record truncated": {func(e *env, args *skel.CmdArgs) {
			must(e.t, os.Truncate(record(e, args), 40))
		}, false},
		"record empty": {func(e *env, args *skel.CmdArgs) { must(e.t, os.Truncate(record(e, args), 0)) }, false},
		"pod renamed the link, changed MAC and MTU": {func(e *env, args *skel.CmdArgs) {
			inPod(e.t, args, func(h *link.Handle, l link.Link) error {
				return h.Restore(l, nodestate.LinkState{Name: "mine", MAC: l.MAC, MTU: 1234, Up: true})
			})
		}, false},
		"pod changed the MAC": {func(e *env, args *skel.CmdArgs) {
			inPod(e.t, args, func(h *link.Handle, l link.Link) error {
				return h.Restore(l, nodestate.LinkState{Name: l.Name, MAC: "02:00:00:00:00:77", MTU: l.MTU, Up: true})
			})
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := newNodeIn(t)
			before := e.snapshot()
			args := e.pod(e.selectA())
			e.add(args)
			tt.happen(e, args)
			e.del(args)
			after := e.snapshot()
			if tt.gone {
				before, after = onlyFiles(before), onlyFiles(after)
			} else if name == "record gone" || strings.HasPrefix(name, "record ") {
				// Without the record the altnames are still the link's own; up/down and accept_ra are not known.
				unknown := strings.NewReplacer("Up:true", "", "AcceptRA:0", "AcceptRA:1")
				before, after = unknown.Replace(before), unknown.Replace(after)
			}
			equal(t, before, after, "the node after DEL")
		})
	}
}

func newNodeIn(t *testing.T) *env {
	t.Helper()
	clearNode(t)
	return newEnv(t)
}

func clearNode(t *testing.T) {
	t.Helper()
	paths, err := filepath.Glob("/run/netns/*")
	must(t, err)
	for _, p := range paths {
		must(t, nstest.DeleteNetns(p))
	}
	eventually(t, "the former node's links to go", func() bool {
		h := hostLinks(t)
		links, err := h.Links()
		must(t, err)
		return len(links) == 1
	})
}

func onlyFiles(s string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return !strings.HasPrefix(l, "file ") }), "\n")
}

func TestNameTakenMeanwhile(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	squat(t, "eth1")
	e.del(args)
	h := hostLinks(t)
	found, err := h.ByMAC("02:00:00:00:00:01")
	must(t, err)
	if len(found) != 1 || found[0].Name != "eni000000060" {
		t.Fatalf("the device in the host = %+v; want it as eni000000060", found)
	}
	if pending, err := e.records().Restores(); err != nil || len(pending) != 1 {
		t.Fatalf("restore records = %v, %v; want one", pending, err)
	}
	unsquat(t, "eth1")
	e.roundTrip(e.selectA()) // the next ADD mends it first
	e.unchanged(before, "once the name is free")
}

func TestLateLink(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	must(t, nstest.DeleteNetns(args.Netns))
	e.del(args) // waits, then leaves a restore record
	if pending, err := e.records().Restores(); err != nil || len(pending) != 1 {
		t.Fatalf("restore records = %v, %v; want one", pending, err)
	}
	e.refused("ADD", e.pod(e.selectA()), 104, "no interface in the host")
	late := eniA
	late.PCI, late.Name = "", "dev7"
	must(t, e.node.Attach(late))
	e.roundTrip(e.selectA())
	e.unchanged(before, "after the late return")
}
