package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/orphan"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func binary(ctx context.Context, o Options) []Finding {
	const check = "CNI plugin"
	path := filepath.Join(o.BinDir, orphan.PluginName)
	remedy := fmt.Sprintf("run: multi-enid install --to %s, or correct --cni-bin-dir", o.BinDir)
	if err := orphan.CheckPlugin(path); err != nil {
		return fail(check, remedy, "%v", err)
	}
	version, err := o.PluginVersion(ctx, path)
	if err != nil {
		return fail(check, remedy, "%s does not answer VERSION: %v", path, err)
	}
	return ok(check, "%s: %s", path, version)
}

// policy compares the paths of the plugin's policy with the daemon's.
func policy(_ context.Context, o Options) []Finding {
	const check = "policy"
	data, err := nodestate.ReadTrusted(o.Policy)
	if errors.Is(err, fs.ErrNotExist) {
		return warn(check, fmt.Sprintf("run: multi-enid install --to %s", o.BinDir),
			"%s is not there, so whoever may write a NetworkAttachmentDefinition chooses paths and plugins", o.Policy)
	}
	if err != nil {
		return fail(check, "correct it; the plugin refuses every ADD until then", "%v", err)
	}
	var p nodestate.Policy
	if err := json.Unmarshal(data, &p); err != nil {
		return fail(check, "correct it; the plugin refuses every ADD until then", "%s is not valid: %v", o.Policy, err)
	}
	if p.SchemaVersion != nodestate.SchemaVersion {
		return fail(check, "install the version of multi-eni that it is for, or write it anew: multi-enid install --to "+o.BinDir,
			"%s is of another version: schemaVersion %d, this version reads %d", o.Policy, p.SchemaVersion, nodestate.SchemaVersion)
	}
	var all []Finding
	for _, c := range []struct{ key, value, otherwise, flag, want string }{
		{"binDir", p.BinDir, "", "--cni-bin-dir", o.BinDir},
		{"dataDir", p.DataDir, nodestate.DefaultAttachmentsDir, "--attachments-dir", o.AttachmentsDir},
		{"leaseDir", p.LeaseDir, leases.DefaultDir, "--lease-dir", o.LeaseDir},
		{"inventory", p.Inventory, nodestate.DefaultInventoryPath, "--inventory", o.Inventory},
	} {
		if c.value == "" {
			c.value = c.otherwise
		}
		if filepath.Clean(c.value) != filepath.Clean(c.want) {
			all = append(all, fail(check, "let both be the same, or the plugin does not see what the daemon does",
				"%s of %s is %q, %s is %q", c.key, o.Policy, c.value, c.flag, c.want)...)
		}
	}
	if all != nil {
		return all
	}
	for typ, keys := range nodestate.DefaultRestricted() {
		if p.Restricted == nil && slices.Contains(p.Delegates, typ) {
			all = append(all, warn(check, `add "restricted" from conf/policy.json, or {} to say that they may`,
				"%s lets tenants choose %s of %s", o.Policy, strings.Join(slices.Sorted(maps.Keys(keys)), " and "), typ)...)
		}
	}
	if all != nil {
		return all
	}
	return ok(check, "%s is valid and agrees with the daemon's paths", o.Policy)
}

// usualNetns is where container runtimes mount the pods' network namespaces.
const usualNetns = "/run/netns"

// netns says whether the daemon can see the end of pods.
func netns(_ context.Context, o Options) []Finding {
	const check = "netns folder"
	folders := map[string]bool{}
	all, _, err := nodestate.AttachmentDir(o.AttachmentsDir).List()
	if err == nil {
		for _, a := range all {
			if path := a.Netns.Path; a.BootID == o.BootID && path != "" && !strings.HasPrefix(path, "/proc/") {
				folders[filepath.Dir(path)] = true
			}
		}
	}
	if len(folders) == 0 {
		folders[usualNetns] = true
	}
	var found []Finding
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		found = append(found, netnsFolder(check, folder, o)...)
	}
	return found
}

func netnsFolder(check, folder string, o Options) []Finding {
	const undone = "what a pod leaves behind that ends without DEL is not released"
	remedy := fmt.Sprintf("mount the host's %s into the daemon's container, at the same path and with mountPropagation: HostToContainer", folder)
	seen, err := o.Look(folder)
	switch {
	case err != nil:
		return warn(check, remedy, "%s cannot be looked at, so %s: %v", folder, undone, err)
	case seen.Host:
		return ok(check, "%s is seen as the host sees it", folder)
	case !seen.Propagated:
		return warn(check, remedy, "%s is not propagated from the host, so %s", folder, undone)
	case !seen.Netns:
		return warn(check, "nothing while no pod is attached; otherwise "+remedy, "%s is propagated, but shows no network namespace at present", folder)
	}
	return ok(check, "%s is propagated from the host", folder)
}
