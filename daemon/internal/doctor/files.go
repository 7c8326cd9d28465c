package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func config(_ context.Context, o Options) []Finding {
	const check = "device plugin config"
	folder := filepath.Dir(o.PCIDPConfig)
	if f := writable(check, folder); f != nil {
		return f
	}
	info, err := os.Lstat(o.PCIDPConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok(check, "%s is not written yet, its folder is writable", o.PCIDPConfig)
	case err != nil:
		return fail(check, "mount the folder into the daemon", "%v", err)
	case info.Mode().Type() == fs.ModeSymlink:
		target, _ := os.Readlink(o.PCIDPConfig) // "" will do
		return fail(check, fmt.Sprintf("mount the node's folder %s (hostPath) into daemon and device plugin, and put a plain file there", folder),
			"%s is a symbolic link to %q, as in a ConfigMap, and is not overwritten", o.PCIDPConfig, target)
	case !info.Mode().IsRegular():
		return fail(check, "put a plain file in its place, or correct --pcidp-config", "%s is a %s", o.PCIDPConfig, info.Mode().Type())
	}
	data, err := os.ReadFile(o.PCIDPConfig)
	if err != nil {
		return fail(check, "make it readable for the daemon", "%v", err)
	}
	if data = []byte(strings.TrimPrefix(string(data), "\ufeff")); !json.Valid(data) {
		return warn(check, "it is kept beside and built anew when multi-enid runs; correct it first if entries in it are yours", "%s is not JSON", o.PCIDPConfig)
	}
	return ok(check, "%s is a plain file in a writable folder", o.PCIDPConfig)
}

// writable says why files cannot be made in the folder; nil if they can.
func writable(check, folder string) []Finding {
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return warn(check, "make it, in a pod by a hostPath volume of type DirectoryOrCreate; multi-enid makes it where it may", "there is no folder %s", folder)
	case err != nil:
		return fail(check, "mount the node's folder (hostPath)", "%v", err)
	case !info.IsDir():
		return fail(check, "remove it, or correct the flag", "%s is no folder", folder)
	}
	if err := unix.Access(folder, unix.W_OK|unix.X_OK); err != nil {
		return fail(check, "mount it writable, and run the daemon as root", "folder %s is not writable: %v", folder, err)
	}
	return nil
}

func inventoryFile(_ context.Context, o Options) []Finding {
	const check = "inventory"
	inv, err := nodestate.ReadInventory(o.Inventory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if f := writable(check, filepath.Dir(o.Inventory)); f != nil {
			return f
		}
		return warn(check, "start multi-enid run; until it is there, pods that name a NodeENI wait", "%s is not there", o.Inventory)
	case err != nil:
		return fail(check, "multi-enid writes it anew when it runs; the plugin refuses it as it is", "%v", err)
	case inv.BootID != o.BootID:
		return warn(check, "start multi-enid run; until then pods that name a NodeENI wait", "%s is of an earlier boot", o.Inventory)
	case inv.NodeName != o.NodeName && o.NodeName != "":
		return warn(check, "give doctor the flags and the environment of the daemon", "%s is of node %s, not %s", o.Inventory, inv.NodeName, o.NodeName)
	}
	phases := map[nodestate.Phase]int{}
	for _, d := range inv.Devices {
		phases[d.Phase]++
	}
	detail := fmt.Sprintf("devices: %d ready, %d pending, %d draining", phases[nodestate.PhaseReady], phases[nodestate.PhasePending],
		phases[nodestate.PhaseDraining])
	if n := len(inv.Problems); n > 0 {
		return warn(check, "multi-enid status shows them", "%s; problems: %d", detail, n)
	}
	return ok(check, "%s; no problems", detail)
}

// stateDir looks at the daemon's own folder and at the checkpoint in it.
func stateDir(_ context.Context, o Options) []Finding {
	const check = "state folder"
	f := ownFolder(check, o.StateDir)
	if f[0].Level != OK {
		return f
	}
	path := nodestate.CheckpointPath(o.StateDir)
	switch _, err := nodestate.ReadCheckpoint(path); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, nodestate.ErrOtherVersion):
		f = append(f, warn(check, "run the version of multi-enid that wrote it; another one keeps the file, and acts only upon as much of it as it understands",
			"%v", err)...)
	case errors.Is(err, nodestate.ErrCorrupt):
		f = append(f, warn(check, "multi-enid finds the devices again and writes it anew when it runs", "%v", err)...)
	default:
		f = append(f, fail(check, "remove what lies there, or correct owner and mode; multi-enid does not start until then", "%v", err)...)
	}
	for _, kept := range nodestate.KeptOther(path) {
		f = append(f, warn(check, "remove it if that version of multi-enid does not come back", "%s is of another version", kept)...)
	}
	return f
}

func attachments(_ context.Context, o Options) []Finding {
	const check = "attachment records"
	if f := ownFolder(check, o.AttachmentsDir); f[0].Level != OK {
		return f
	}
	all, bad, err := nodestate.AttachmentDir(o.AttachmentsDir).List()
	if err != nil {
		return fail(check, "mount the node's folder (hostPath)", "%v", err)
	}
	var found []Finding
	for _, u := range bad {
		found = append(found, warn(check, u.Remedy(), "%v", u)...)
	}
	held := 0
	for _, a := range all {
		if a.Holds(o.BootID) {
			held++
		}
	}
	return append(ok(check, "%s: %d, of pods of this boot: %d", o.AttachmentsDir, len(all), held), found...)
}

// ownFolder looks at a folder that only root should write. The daemon makes a missing one.
func ownFolder(check, path string) []Finding {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ok(check, "%s does not exist yet", path)
	}
	if err != nil {
		return fail(check, "mount the node's folder (hostPath)", "%v", err)
	}
	if !info.IsDir() {
		return fail(check, "put a folder in its place, or correct the flag", "%s is no folder but a %s", path, info.Mode().Type())
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fail(check, "run: chmod 0700 "+path, "%s may be written by others (mode %04o), who could forge what the plugin trusts", path, mode)
	}
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return fail(check, "mount it writable, and run the daemon as root", "%s is not writable: %v", path, err)
	}
	return ok(check, "%s has mode %04o", path, info.Mode().Perm())
}

func sysfsTree(_ context.Context, o Options) []Finding {
	const check = "sysfs"
	addresses, err := sysfs.NewFS(o.Sysfs).PCIAddresses()
	switch {
	case err != nil:
		return fail(check, "mount the host's /sys there, or correct --sysfs", "%v", err)
	case len(addresses) == 0:
		return fail(check, "mount the host's /sys there, or correct --sysfs; nothing is removed on its account", "%s shows no PCI function at all", o.Sysfs)
	}
	return ok(check, "%s, PCI functions: %d", o.Sysfs, len(addresses))
}

// servedEntries reports entries of the device plugin's config that make a plugin with these prefixes exit. A running daemon removes them.
func servedEntries(o Options, prefixes []string) []Finding {
	content, err := os.ReadFile(o.PCIDPConfig)
	if err != nil {
		return nil // another check reports it
	}
	r, err := pcidp.Render(content, nil, nil, pcidp.Node{Prefixes: prefixes})
	if err != nil {
		return nil // likewise
	}
	var all []Finding
	for _, l := range r.LeftOut[:min(len(r.LeftOut), 5)] {
		all = append(all, warn("device plugin", "correct the entry, or start multi-enid run, which takes it out and keeps a copy", "entry %.200s of %s %.200s",
			l.Entry, o.PCIDPConfig, l.Cause)...)
	}
	return all
}
