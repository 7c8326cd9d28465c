package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	hostNetworkCheck = "host network"
	// elsewhere is where the host's files can be seen.
	elsewhere = "the host itself has them, and with components/host-network the installer's pod, below /host (--host-root)"
)

// hostNetwork reports how the host's network managers treat ENIs. It asks the kernel and IMDS and reads files. It asks no manager.
func hostNetwork(ctx context.Context, o Options) []Finding {
	managers, known := hostnet.Running(os.DirFS(o.Sysfs))
	var all []Finding
	if known {
		all = ok(hostNetworkCheck, "network managers that run: %s", list(names(managers)))
	} else {
		all = ok(hostNetworkCheck, "%s does not show which network managers run", o.Sysfs)
	}
	links, err := o.HostLinks()
	if err != nil {
		return append(all, fail(hostNetworkCheck, "run doctor where the daemon runs, in the host's network", "links cannot be read: %v", err)...)
	}
	primary, why := primaryLink(ctx, o, links)
	if why != "" {
		all = append(all, ok(hostNetworkCheck, "%s, so that no file can be given that leaves it alone", why)...)
	}
	advice := hostnet.Advice(managers, primary.Name, hostnet.ENIDriver)
	all = append(all, declaredLinks(o, links, primary, advice)...)
	if slices.Contains(managers, hostnet.Networkd) {
		all = append(all, foreignManaged(o, advice)...)
	}
	if primary.Name == "" {
		return all
	}
	if len(managers) == 0 {
		managers = []hostnet.Manager{hostnet.Networkd, hostnet.NetworkManager}
		known = false
	}
	for _, m := range managers {
		all = append(all, primaryManaged(o, m, primary, advice, known && len(managers) == 1)...)
	}
	if !slices.ContainsFunc(all, func(f Finding) bool { return strings.Contains(f.Remedy, advice) }) {
		all = append(all, ok(hostNetworkCheck, "files that would keep network managers off the other ENIs: %s", advice)...)
	}
	return all
}

func names(managers []hostnet.Manager) (all []string) {
	for _, m := range managers {
		all = append(all, string(m))
	}
	return all
}

// primaryLink finds the primary ENI's link by the MAC from IMDS. If it finds none, why says the reason; else why is "".
func primaryLink(ctx context.Context, o Options, links []hostnet.HostLink) (primary hostnet.HostLink, why string) {
	enis, err := o.ENIs(ctx)
	if err != nil {
		return hostnet.HostLink{}, "the primary ENI is not known, for the instance metadata cannot be read"
	}
	var mac device.MAC
	for _, e := range enis {
		if e.Primary {
			mac = e.MAC
		}
	}
	if mac == "" {
		return hostnet.HostLink{}, "the instance metadata name no primary ENI"
	}
	var found []hostnet.HostLink
	for _, l := range links {
		if l.MAC == mac.String() {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		return hostnet.HostLink{}, fmt.Sprintf("%d links have the MAC %s of the primary ENI", len(found), mac)
	}
	return found[0], ""
}

// declaredLinks checks the links of NodeENIs that are in the host.
func declaredLinks(o Options, links []hostnet.HostLink, primary hostnet.HostLink, advice string) []Finding {
	inv, err := nodestate.ReadInventory(o.Inventory)
	if err != nil || inv.BootID != o.BootID {
		return ok(hostNetworkCheck, "links of NodeENIs are not looked at without an inventory")
	}
	var bad, learning []string
	seen := 0
	for _, d := range inv.Devices {
		for _, l := range links {
			if d.MAC == "" || l.MAC != d.MAC.String() || l.MAC == primary.MAC {
				continue
			}
			seen++
			if clutter := l.Clutter(); clutter != "" {
				bad = append(bad, fmt.Sprintf("link %s of NodeENI %s: %s", l.Name, d.NodeENI, clutter))
			}
			if l.AcceptsRA() {
				learning = append(learning, fmt.Sprintf("%s of NodeENI %s (accept_ra %s, forwarding %s)", l.Name, d.NodeENI, l.AcceptRA, l.Forwarding))
			}
		}
	}
	var all []Finding
	if len(bad) > 0 {
		all = warn(hostNetworkCheck, advice, "%s", strings.Join(bad, "; "))
	}
	if len(learning) > 0 {
		all = append(all, warn(hostNetworkCheck, "let the daemon switch that off, by a writable mount of the host's /proc/sys/net as in deploy/daemon.yaml, "+
			"or set net.ipv6.conf.default.accept_ra=0 on the host", "the kernel takes addresses and default routes from router advertisements on %s",
			strings.Join(learning, "; "))...)
	}
	if len(all) > 0 {
		return all
	}
	return ok(hostNetworkCheck, "links of NodeENIs in the host: %d, none with a host address, a default route or router advertisements", seen)
}

func foreignManaged(o Options, advice string) []Finding {
	on, err := hostnet.ForeignManaged(os.DirFS(o.HostRoot))
	switch {
	case errors.Is(err, hostnet.ErrNotVisible):
		return ok(hostNetworkCheck, "networkd.conf is not visible below %s; %s", o.HostRoot, elsewhere)
	case err != nil:
		return warn(hostNetworkCheck, "run doctor on the host itself", "networkd.conf cannot be read: %v", err)
	case len(on) > 0:
		return warn(hostNetworkCheck, advice,
			"systemd-networkd removes rules and routes that others have made, when a link comes back or is configured again (%s)", strings.Join(on, ", "))
	}
	return ok(hostNetworkCheck, "systemd-networkd leaves rules and routes of others alone")
}

// primaryManaged checks whether a file keeps the manager off the primary ENI. alone says
// that no other manager runs that could configure it.
func primaryManaged(o Options, m hostnet.Manager, primary hostnet.HostLink, advice string, alone bool) []Finding {
	verdict := map[hostnet.Manager]func() (hostnet.Verdict, error){
		hostnet.Networkd: func() (hostnet.Verdict, error) { return hostnet.NetworkdVerdict(os.DirFS(o.HostRoot), primary.Link) },
		hostnet.NetworkManager: func() (hostnet.Verdict, error) {
			return hostnet.NetworkManagerVerdict(os.DirFS(o.HostRoot), primary.Link)
		},
	}[m]
	v, err := verdict()
	switch {
	case errors.Is(err, hostnet.ErrNotVisible):
		return ok(hostNetworkCheck, "files of %s are not visible below %s; %s", m, o.HostRoot, elsewhere)
	case err != nil:
		return warn(hostNetworkCheck, "run doctor on the host itself", "files of %s cannot be read: %v", m, err)
	case v.Unmanaged && alone:
		return fail(hostNetworkCheck, "correct the file before the node starts again: "+advice,
			"%s makes %s leave the primary ENI's link %s alone, which then gets no address", v.File, m, primary.Name)
	case v.Unmanaged:
		return warn(hostNetworkCheck, "see that another manager has it, or correct the file: "+advice,
			"%s makes %s leave the primary ENI's link %s alone", v.File, m, primary.Name)
	case len(v.Unsure) > 0:
		return warn(hostNetworkCheck, "see that it does not: "+advice,
			"%s may make %s leave the primary ENI's link %s alone; it has conditions that doctor does not know", list(v.Unsure), m, primary.Name)
	}
	return ok(hostNetworkCheck, "no file keeps %s off the primary ENI's link %s", m, primary.Name)
}
