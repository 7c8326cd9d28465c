package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/orphan"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestPluginFaults: each fault of the CNI plugin, its policy and its namespaces gives one finding.
func TestPluginFaults(t *testing.T) {
	find(t, map[string]fault{
		"no plugin":   {func(w *world) { w.must(os.Remove(w.path("bin/multi-eni"))) }, Fail, "CNI plugin", []string{"multi-enid install --to /node/bin"}},
		"plugin open": {func(w *world) { w.must(os.Chmod(w.path("bin/multi-eni"), 0o777)) }, Fail, "CNI plugin", []string{"writable by others"}},
		"plugin of another machine": {func(w *world) {
			w.o.PluginVersion = func(context.Context, string) (string, error) { return "", errors.New("exec format error") }
		}, Fail, "CNI plugin", []string{"VERSION", "exec format error"}},
		"no policy":      {func(w *world) { w.must(os.Remove(w.o.Policy)) }, Warn, "policy", []string{"multi-enid install"}},
		"policy invalid": {func(w *world) { w.write("etc/policy.json", "{", 0o644) }, Fail, "policy", []string{"refuses every ADD"}},
		"policy open":    {func(w *world) { w.must(os.Chmod(w.o.Policy, 0o666)) }, Fail, "policy", []string{"chmod go-w"}},
		"policy of before": {func(w *world) {
			w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"delegates":["sriov"],"binDir":%q,"dataDir":%q,"leaseDir":%q,"inventory":%q}`,
				w.o.BinDir, w.o.AttachmentsDir, w.o.LeaseDir, w.o.Inventory), 0o644)
		}, Warn, "policy", []string{"spoofchk and trust of sriov", "conf/policy.json"}},
		"policy elsewhere": {func(w *world) {
			w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"binDir":%q,"leaseDir":%q,"inventory":%q}`, w.o.BinDir, w.o.LeaseDir, w.o.Inventory), 0o644)
		}, Fail, "policy", []string{"dataDir", nodestate.DefaultAttachmentsDir, "--attachments-dir"}},
		"not propagated": {func(w *world) {
			w.record("c1", func(a *nodestate.Attachment) { a.Netns.Path = "/var/run/netns/c1" })
			w.o.Look = func(folder string) (orphan.View, error) { return orphan.View{Netns: folder == "/var/run/netns"}, nil }
		}, Warn, "netns folder", []string{"/var/run/netns is not propagated", "HostToContainer"}},
		"no netns folder":     {func(w *world) { w.look(orphan.View{}, os.ErrNotExist) }, Warn, "netns folder", []string{"/run/netns cannot be looked at"}},
		"no netns at present": {func(w *world) { w.look(orphan.View{Propagated: true}, nil) }, Warn, "netns folder", []string{"no network namespace at present"}},
		"policy of another version": {func(w *world) { w.write("etc/policy.json", `{"schemaVersion":2}`, 0o644) }, Fail, "policy",
			[]string{"/node/etc/policy.json is of another version: schemaVersion 2, this version reads 1", "multi-enid install --to /node/bin"}},
		"other folder of plugins": {func(w *world) { w.o.BinDir = w.path("elsewhere"); w.write("elsewhere/multi-eni", "", 0o755) }, Fail, "policy",
			[]string{`binDir of /node/etc/policy.json is "/node/bin", --cni-bin-dir is "/node/elsewhere"`}},
	})
}

// TestPolicyPaths: paths that a policy leaves out have their defaults, and one finding names each path that differs.
func TestPolicyPaths(t *testing.T) {
	w := newWorld(t)
	w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"binDir":%q}`, w.o.BinDir+"/"), 0o644)
	w.says(policy,
		`FAIL policy: dataDir of /node/etc/policy.json is "`+nodestate.DefaultAttachmentsDir+`", --attachments-dir is "/node/records"; let both be the same`,
		`FAIL policy: leaseDir of /node/etc/policy.json is "`+leases.DefaultDir+`", --lease-dir is "/node/leases"`,
		`FAIL policy: inventory of /node/etc/policy.json is "`+nodestate.DefaultInventoryPath+`", --inventory is "/node/run/inventory.json"`,
	)
	w.o.AttachmentsDir, w.o.LeaseDir, w.o.Inventory = nodestate.DefaultAttachmentsDir, leases.DefaultDir, nodestate.DefaultInventoryPath
	w.says(policy, "ok policy: /node/etc/policy.json is valid and agrees with the daemon's paths")
}

// TestRestricted: a policy without restrictions is pointed out for the delegates that it allows, and an empty list is a decision.
func TestRestricted(t *testing.T) {
	w := newWorld(t)
	write := func(more string) {
		w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"binDir":%q,"dataDir":%q,"leaseDir":%q,"inventory":%q,%s}`,
			w.o.BinDir, w.o.AttachmentsDir, w.o.LeaseDir, w.o.Inventory, more), 0o644)
	}
	write(`"delegates":["ipvlan","sriov"]`)
	w.says(policy, "warn policy: /node/etc/policy.json lets tenants choose spoofchk and trust of sriov; add \"restricted\" from conf/policy.json")
	write(`"delegates":["ipvlan"]`)
	w.says(policy, "ok policy: ")
	write(`"delegates":["sriov"],"restricted":{}`)
	w.says(policy, "ok policy: ")
}

// TestNetnsFolders: each folder that records name is looked at once, and only of this boot.
func TestNetnsFolders(t *testing.T) {
	w := newWorld(t)
	seen := map[string]int{}
	w.o.Look = func(folder string) (orphan.View, error) {
		seen[folder]++
		return orphan.View{Propagated: true, Netns: true}, nil
	}
	w.record("c1", func(a *nodestate.Attachment) { a.Netns.Path = "/var/run/netns/c1" })
	w.record("c2", func(a *nodestate.Attachment) { a.Netns.Path = "/var/run/netns/c2" })
	w.record("c3", func(a *nodestate.Attachment) { a.Netns.Path = "/proc/17/ns/net" })
	w.record("c4", func(a *nodestate.Attachment) { a.Netns.Path, a.BootID = "/run/old/c4", "x" })
	w.says(netns, "ok netns folder: /var/run/netns is propagated from the host")
	if len(seen) != 1 || seen["/var/run/netns"] != 1 {
		t.Errorf("looked at %v", seen)
	}
}

func TestHostNamespace(t *testing.T) {
	w := newWorld(t)
	w.look(orphan.View{Host: true}, nil)
	if got := w.report(); !strings.Contains(got, "ok    netns folder: /run/netns is seen as the host sees it\n") {
		t.Errorf("report:\n%s", got)
	}
}

// TestPluginPrefix: doctor reads the config with the device plugin's own prefix, and names the entries on which the plugin ends.
func TestPluginPrefix(t *testing.T) {
	for prefix, ends := range map[string]bool{"openshift.io": true, "intel.com": false} {
		w := newWorld(t)
		w.write("etc/pcidp/config.json", `{"resourceList":[{"resourceName":"nic-1","selectors":{"drivers":["none"]}},`+
			`{"resourcePrefix":"openshift.io","resourceName":"nic-1","selectors":{"drivers":["none"]}}]}`, 0o644)
		w.plugin(pluginrestart.PluginReport{Pods: []string{"kube-system/dp"}, Prefixes: []string{prefix}}, nil)
		said, named := false, false
		for _, f := range Run(t.Context(), w.o) {
			if f.Check == "device plugin" {
				named = named || f.Level == OK && strings.Contains(f.Detail, "resource prefix "+prefix)
				said = said || f.Level == Warn && strings.Contains(f.Detail, "openshift.io/nic-1")
			}
		}
		if said != ends || !named {
			t.Errorf("prefix %s: named %t, entry found %t; want true, %t", prefix, named, said, ends)
		}
	}
}
