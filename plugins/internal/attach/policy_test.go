package attach_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func TestPolicy(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.inv.Devices[1].AllowedNamespaces = []string{"core"}
	e.writeInventory()
	p := &attach.Plugin{PolicyPath: e.policyFile(map[string]any{"delegates": []string{"macvlan"}, "ipam": []string{"host-local"}})}
	with := func(more map[string]any) *skel.CmdArgs {
		conf := map[string]any{"dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil}
		maps.Copy(conf, more)
		return e.pod(conf)
	}
	selA := map[string]any{"nodeENI": "a"}
	refused := func(args *skel.CmdArgs, words ...string) {
		t.Helper()
		e.fails(p, "ADD", args, 105, words...)
	}
	for _, key := range []string{"dataDir", "inventory", "sysfs", "logFile"} {
		refused(with(map[string]any{"select": selA, key: "/tmp/x"}), key, "/tmp/x", "remove the key")
	}
	refused(with(map[string]any{"select": selA, "delegate": map[string]any{"type": "ipvlan"}}), "delegate.type", "ipvlan", "macvlan")
	refused(with(map[string]any{"select": selA, "ipam": map[string]any{"type": "static"}}), "ipam.type", "static", "host-local")
	refused(with(map[string]any{"select": selA, "ipam": map[string]any{"type": "host-local", "dataDir": "/etc"}}), "ipam.dataDir", "/etc")
	refused(with(map[string]any{"select": selA, "runtimeConfig": map[string]any{"CNIDeviceInfoFile": "/etc/x"}}), "CNIDeviceInfoFile", "/etc/x")
	refused(with(map[string]any{"deviceID": "0000:00:1c.0"}), "deviceID", "inventory")
	refused(with(map[string]any{"select": map[string]any{"nodeENI": "b"}}), "K8S_POD_NAMESPACE", `"shop"`, "core", "allowed-namespaces")

	args := with(map[string]any{"select": selA})
	args.Path = "/nonexistent" // CNI_PATH is the runtime's, the policy's folder holds
	e.runs(p, "ADD", args)
	e.runs(p, "DEL", args)
	hostile := with(map[string]any{"select": selA, "ipam": map[string]any{"type": "host-local", "dataDir": "/proc/none"}})
	e.runs(p, "DEL", hostile)
}

// TestUnusablePolicy: an unusable policy allows nothing. DEL and GC fail if they cannot
// know whether everything is done.
func TestUnusablePolicy(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	file := e.policyFile(nil)
	p := &attach.Plugin{PolicyPath: file}
	before := e.snapshot()
	for name, tt := range map[string]struct {
		spoil func() error
		knows bool // where the records are
	}{
		"writable by others": {func() error { return os.Chmod(file, 0o666) }, false},
		"not JSON":           {func() error { return os.WriteFile(file, []byte("{"), 0o644) }, false},
		"symlink":            {func() error { return errors.Join(os.Remove(file), os.Symlink("/dev/null", file)) }, false},
		"unknown rule":       {func() error { e.policyFile(map[string]any{"allow": 1}); return nil }, true},
		"wrong type":         {func() error { e.policyFile(map[string]any{"delegates": "all"}); return nil }, true},
		"other version":      {func() error { e.policyFile(map[string]any{"schemaVersion": 2}); return nil }, false},
	} {
		e.policyFile(nil)
		bare := map[string]any{"select": map[string]any{"nodeENI": "a"}, "dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil}
		args, never := e.pod(bare), e.pod(bare)
		e.runs(p, "ADD", args)
		held := e.snapshot()
		must(t, tt.spoil())
		e.fails(p, "ADD", never, 105, "policy cannot be used")
		for _, args := range []*skel.CmdArgs{never, args} {
			if tt.knows {
				e.runs(p, "DEL", args)
				continue
			}
			e.fails(p, "DEL", args, 105, "policy cannot be used")
			e.unchanged(held, "after a DEL that failed, "+name)
			e.fails(p, "GC", args, 105, "policy cannot be used")
		}
		e.policyFile(nil)
		e.runs(p, "DEL", args)
		e.unchanged(before, "after all DELs, "+name)
	}
}

func (e *env) policyFile(more map[string]any) string {
	e.t.Helper()
	policy := map[string]any{
		"schemaVersion": 1, "binDir": e.path, "delegates": []string{"macvlan", "host-device"}, "ipam": []string{"host-local", "eni-ipam"},
		"dataDir": e.file("records"), "leaseDir": e.file("leases"), "inventory": e.file("inventory.json"), "sysfs": e.node.Sysfs, "logFile": e.file("log"),
	}
	maps.Copy(policy, more)
	data, err := json.Marshal(policy)
	must(e.t, err)
	path := e.file("node-policy.json")
	must(e.t, os.RemoveAll(path))
	must(e.t, os.WriteFile(path, data, 0o644))
	return path
}
