package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// The values of HostNetwork.Mode and --host-network.
const (
	HostLeave  = "leave"
	HostWrite  = "write"
	HostRemove = "remove"
)

const imdsTimeout = 10 * time.Second

// HostNetwork writes or removes the files that keep the host's network managers off ENIs.
type HostNetwork struct {
	Mode string
	// Root is the folder with the host's /etc and /sys.
	Root string
	// PrimaryMAC asks IMDS. One answer is enough: an instance keeps its primary ENI.
	PrimaryMAC func(context.Context) (device.MAC, error)
	mac        device.MAC
}

func (h *HostNetwork) run(ctx context.Context, tell report) error {
	switch h.Mode {
	case HostWrite:
		return h.write(ctx, tell)
	case HostRemove:
		return removeHostFiles(h.Root, tell)
	}
	return nil
}

func (h *HostNetwork) write(ctx context.Context, tell report) error {
	sys := filepath.Join(h.Root, "sys")
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
		errs = append(errs, warnOfFiles(h.Root, m, primary, tell))
		files, err := hostnet.Files(m, primary.Name, hostnet.ENIDriver)
		errs = append(errs, err)
		for _, f := range files {
			outcome, changed, err := writeHostFile(h.Root, m, f)
			if err != nil {
				errs = append(errs, fmt.Errorf("write %s: %w", f.Path, err))
				continue
			}
			tell(f.Path, outcome, changed)
		}
	}
	return errors.Join(errs...)
}

// warnOfFiles warns of a file that keeps the manager off the primary ENI. It sees only the files in /etc.
func warnOfFiles(root string, m hostnet.Manager, primary link.Link, tell report) error {
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
func (h *HostNetwork) primary(ctx context.Context) (link.Link, error) {
	if h.mac == "" {
		asking, stop := context.WithTimeout(ctx, imdsTimeout)
		mac, err := h.PrimaryMAC(asking)
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
		if hostnet.OfDevice(l) && l.HasMAC(mac) {
			names = append(names, l.Name)
			found = l
		}
	}
	if len(names) != 1 {
		return link.Link{}, fmt.Errorf("find the link of the primary ENI: %d links have its MAC %s (%s), want 1", len(names), mac, strings.Join(names, ", "))
	}
	return found, nil
}

// keptHostNetwork repeats HostNetwork. A failure never ends the process that installs the plugins.
type keptHostNetwork struct {
	*HostNetwork
	out, err io.Writer
	// reported has the last outcome by path, and the last error by "error".
	reported map[string]string
	pause    backoff.Backoff
}

func newKeptHostNetwork(h *HostNetwork, out, err io.Writer) keptHostNetwork {
	return keptHostNetwork{HostNetwork: h, out: out, err: err, reported: map[string]string{}, pause: backoff.Backoff{First: hostNetworkFirst, Cap: keepEvery}}
}

// run returns the pause before the next run. It reports an outcome once.
func (k *keptHostNetwork) run(ctx context.Context) time.Duration {
	err := k.HostNetwork.run(ctx, func(path, outcome string, changed bool) {
		if changed || k.reported[path] != outcome {
			fmt.Fprintf(k.out, "%s: %s\n", path, outcome)
		}
		k.reported[path] = outcome
	})
	if err == nil {
		k.reported["error"] = ""
		k.pause.Reset()
		return keepEvery
	}
	if text := err.Error(); k.reported["error"] != text && ctx.Err() == nil {
		fmt.Fprintf(k.err, "multi-enid: keep network managers off ENIs: %s; tried again\n", text)
		k.reported["error"] = text
	}
	return k.pause.Failed()
}
