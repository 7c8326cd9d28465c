package attach_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

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
