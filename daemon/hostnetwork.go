package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// The values of --host-network.
const (
	hostNetworkLeave  = "leave"
	hostNetworkWrite  = "write"
	hostNetworkRemove = "remove"
)

// imdsTimeout bounds the request for the primary ENI's MAC.
const imdsTimeout = 10 * time.Second

// hostNetwork carries out --host-network: it writes or removes the files that keep the
// host's network managers off ENIs.
type hostNetwork struct {
	mode string
	// root is where the host's /etc and /sys are.
	root string
	// primaryMAC asks IMDS. One answer is enough: an instance keeps its primary ENI.
	primaryMAC func(context.Context) (device.MAC, error)
	mac        device.MAC
}

func (h *hostNetwork) add(f *pflag.FlagSet) {
	f.StringVar(&h.mode, "host-network", hostNetworkLeave, "What to do with the files that keep systemd-networkd and NetworkManager off all ENIs but the primary one: `leave`, write or remove.")
	f.StringVar(&h.root, "host-root", "/", "`Folder` where the host's etc and sys are mounted, for --host-network.")
}

func (h *hostNetwork) check() error {
	switch h.mode {
	case hostNetworkLeave, hostNetworkWrite, hostNetworkRemove:
		return nil
	}
	return cli.Usagef("--host-network %q: want leave, write or remove", h.mode)
}

// run writes or removes the host's files, as mode says. It calls tell with the outcome for
// each file.
func (h *hostNetwork) run(ctx context.Context, tell func(path, what string, changed bool)) error {
	switch h.mode {
	case hostNetworkWrite:
		return h.write(ctx, tell)
	case hostNetworkRemove:
		return removeHostFiles(h.root, tell)
	}
	return nil
}

// keptHostNetwork repeats hostNetwork. A failure never ends the process that installs the
// plugin.
type keptHostNetwork struct {
	*hostNetwork
	told  map[string]string // the last report by path; the last error by "error"
	pause time.Duration     // before the next try after a failure
}

// run returns the pause before the next run.
func (k *keptHostNetwork) run(ctx context.Context, p program) time.Duration {
	err := k.hostNetwork.run(ctx, func(path, what string, changed bool) {
		if changed || k.told[path] != what {
			fmt.Fprintf(p.stdout, "%s: %s\n", path, what)
		}
		k.told[path] = what
	})
	if err == nil {
		k.told["error"], k.pause = "", hostNetworkFirst
		return keepEvery
	}
	if text := err.Error(); k.told["error"] != text && ctx.Err() == nil {
		fmt.Fprintf(p.stderr, "multi-enid: keep network managers off ENIs: %s; tried again\n", text)
		k.told["error"] = text
	}
	next := k.pause
	k.pause = min(2*k.pause, keepEvery)
	return next
}

func (h *hostNetwork) write(ctx context.Context, tell func(path, what string, changed bool)) error {
	sys := filepath.Join(h.root, "sys")
	managers, known := hostnet.Running(os.DirFS(sys))
	if !known {
		return fmt.Errorf("find the host's network manager: %s does not show the control groups of the host's units", sys)
	}
	if len(managers) == 0 {
		tell("host network", "neither systemd-networkd nor NetworkManager runs, nothing to write", false)
		return nil
	}
	primary, err := h.primary(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range managers {
		errs = append(errs, warnOfFiles(h.root, m, primary, tell))
		files, err := hostnet.Files(m, primary.Name, hostnet.ENIDriver)
		errs = append(errs, err)
		for _, f := range files {
			what, changed, err := writeHostFile(h.root, m, f)
			if err != nil {
				errs = append(errs, fmt.Errorf("write %s: %w", f.Path, err))
				continue
			}
			tell(f.Path, what, changed)
		}
	}
	return errors.Join(errs...)
}

// warnOfFiles warns of a file that keeps the manager off the primary ENI. It sees only the
// files in /etc.
func warnOfFiles(root string, m hostnet.Manager, primary link.Link, tell func(path, what string, changed bool)) error {
	verdict := hostnet.NetworkdVerdict
	if m == hostnet.NetworkManager {
		verdict = hostnet.NetworkManagerVerdict
	}
	l := hostnet.Link{Name: primary.Name, AltNames: primary.AltNames, MAC: primary.MAC.String(), Driver: hostnet.ENIDriver}
	v, err := verdict(os.DirFS(root), l)
	switch {
	case errors.Is(err, hostnet.ErrNotVisible): // as on a host without that folder
		return nil
	case err != nil:
		return fmt.Errorf("look for files that keep %s off the primary ENI: %w", m, err)
	case v.Unmanaged:
		tell("warning: "+v.File, fmt.Sprintf("makes %s leave the primary ENI's link %s alone: remove it before the node starts again", m, l.Name), false)
	}
	return nil
}

// primary returns the primary ENI's link as it is now.
func (h *hostNetwork) primary(ctx context.Context) (link.Link, error) {
	if h.mac == "" {
		asking, stop := context.WithTimeout(ctx, imdsTimeout)
		mac, err := h.primaryMAC(asking)
		stop()
		if err != nil {
			return link.Link{}, fmt.Errorf("find the primary ENI: %w", err)
		}
		h.mac = mac
	}
	links, err := link.Open()
	if err != nil {
		return link.Link{}, err
	}
	defer links.Close()
	all, err := links.Links()
	if err != nil {
		return link.Link{}, err
	}
	return primaryLink(all, h.mac)
}

// primaryLink finds the one link of a device that has the MAC.
func primaryLink(all []link.Link, mac device.MAC) (link.Link, error) {
	var names []string
	var found link.Link
	for _, l := range all {
		if ownLink(l) && l.HasMAC(mac) {
			names = append(names, l.Name)
			found = l
		}
	}
	if len(names) != 1 {
		return link.Link{}, fmt.Errorf("find the link of the primary ENI: %d links have its MAC %s (%s), want 1", len(names), mac, strings.Join(names, ", "))
	}
	return found, nil
}

// writeHostFile writes one file. It keeps a foreign file, and ours when somebody has edited
// it.
func writeHostFile(root string, m hostnet.Manager, f hostnet.File) (what string, changed bool, err error) {
	state, data, err := hostFile(root, f.Path)
	if err != nil {
		return "", false, err
	}
	switch state {
	case hostFileForeign:
		return "kept, multi-enid has not written it", false, nil
	case hostFileEdited:
		return "kept, somebody has edited it", false, nil
	case hostFileOurs:
		if string(data) == f.Marked() {
			return "as it should be", false, nil
		}
	case hostFileNone:
	}
	at, err := os.OpenRoot(root)
	if err != nil {
		return "", false, err
	}
	defer at.Close() //nolint:errcheck // nothing is written by it
	// It refuses a folder that a symbolic link leads out of the host's root.
	if err := at.MkdirAll(filepath.Dir(relative(f.Path)), 0o755); err != nil {
		return "", false, err
	}
	if err := atomicfile.Write(filepath.Join(root, f.Path), []byte(f.Marked()), 0o644, atomicfile.Durable); err != nil {
		return "", false, err
	}
	return fmt.Sprintf("written, in effect after a reboot or `%s`", hostnet.Reload(m)), true, nil
}

// removeHostFiles removes the files that multi-enid has written and nobody has edited.
func removeHostFiles(root string, tell func(path, what string, changed bool)) error {
	var errs []error
	for _, path := range hostnet.Paths() {
		state, _, err := hostFile(root, path)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("remove %s: %w", path, err))
		case state == hostFileForeign:
			tell(path, "kept, multi-enid has not written it", false)
		case state == hostFileEdited:
			tell(path, "kept, somebody has edited it", false)
		case state == hostFileOurs:
			if err := os.Remove(filepath.Join(root, path)); err != nil {
				errs = append(errs, fmt.Errorf("remove: %w", err))
				continue
			}
			tell(path, "removed", true)
		}
	}
	return errors.Join(errs...)
}

// hostFileState says whose a file is.
type hostFileState int

const (
	hostFileNone hostFileState = iota
	// hostFileForeign: multi-enid has not written it, or it is no regular file.
	hostFileForeign
	hostFileEdited
	hostFileOurs
)

// hostFile looks at a file of the host. Symbolic links within the host's root are
// followed in folders, never in the last component.
func hostFile(root, path string) (hostFileState, []byte, error) {
	at, err := os.OpenRoot(root)
	if err != nil {
		return 0, nil, err
	}
	defer at.Close() //nolint:errcheck // opened for reading only
	info, err := at.Lstat(relative(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hostFileNone, nil, nil
	case err != nil:
		return 0, nil, err
	case !info.Mode().IsRegular():
		return hostFileForeign, nil, nil
	}
	data, err := at.ReadFile(relative(path))
	if err != nil {
		return 0, nil, err
	}
	switch ours, unchanged := hostnet.Ours(string(data)); {
	case !ours:
		return hostFileForeign, data, nil
	case !unchanged:
		return hostFileEdited, data, nil
	}
	return hostFileOurs, data, nil
}

func relative(path string) string { return strings.TrimPrefix(path, "/") }
