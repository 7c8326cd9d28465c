package doctor

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

const primaryMAC = "02:00:00:00:00:00"

// primary returns the primary ENI's link, declared the link of the inventory's device.
func primary() hostnet.HostLink {
	return hostnet.HostLink{
		Link:      hostnet.Link{Name: "ens5", AltNames: []string{"enp0s5"}, MAC: primaryMAC, Driver: "ena"},
		Addresses: []string{"10.0.0.5/24"}, Routes: []string{"IPv4 default route (proto dhcp)"}, AcceptRA: "1", Forwarding: "0",
	}
}

func declared() hostnet.HostLink {
	return hostnet.HostLink{Link: hostnet.Link{Name: "ens6", AltNames: []string{"enp0s6"}, MAC: "02:00:00:00:00:01", Driver: "ena"}, AcceptRA: "0",
		Forwarding: "0"}
}

func (w *world) runs(unit string) {
	w.Helper()
	w.must(os.MkdirAll(w.path("sys/fs/cgroup/system.slice/"+unit), 0o755))
}

func (w *world) visible() {
	w.Helper()
	for _, folder := range []string{"etc/systemd", "usr/lib/systemd", "etc/NetworkManager"} {
		w.must(os.MkdirAll(w.path("root/"+folder), 0o755))
	}
}

// networkd has systemd-networkd run, and leave rules and routes of others alone.
func (w *world) networkd() {
	w.Helper()
	w.runs("systemd-networkd.service")
	w.visible()
	w.write(confD, quiet, 0o644)
}

// with has the declared link be otherwise.
func (w *world) with(change func(l *hostnet.HostLink)) {
	l := declared()
	change(&l)
	w.o.HostLinks = func() ([]hostnet.HostLink, error) { return []hostnet.HostLink{primary(), l}, nil }
}

const (
	networkdRight = `write /etc/systemd/network/05-multi-eni.network: '[Match]\nDriver=ena\nProperty=!INTERFACE=ens5\n`
	managerRight  = `write /etc/NetworkManager/conf.d/80-multi-eni.conf: '[keyfile]\nunmanaged-devices=driver:ena;except:interface-name:ens5\n'`
)

// hostCase is a host, and the one finding about its network that is not OK.
type hostCase struct {
	happen func(w *world)
	level  Level // OK: says is in a finding of level OK, and there is no other
	says   []string
}

func checkHostNetwork(t *testing.T, cases map[string]hostCase) {
	t.Helper()
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.happen(w)
			var lines []string
			for _, f := range hostNetwork(t.Context(), w.o) {
				if (f.Level == OK) != (f.Remedy == "") || f.Check != "host network" {
					t.Errorf("finding %+v", f)
				}
				if f.Level == tt.level {
					lines = append(lines, strings.ReplaceAll(f.String(), w.root, "/node"))
				} else if f.Level != OK {
					t.Errorf("also %s", f)
				}
			}
			if tt.level != OK && len(lines) != 1 {
				t.Errorf("findings %q", lines)
			}
			for _, s := range tt.says {
				if !strings.Contains(strings.Join(lines, "\n"), s) {
					t.Errorf("%q does not say %q", lines, s)
				}
			}
		})
	}
}

const (
	quiet   = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
	confD   = "root/etc/systemd/networkd.conf.d/a.conf"
	network = "root/etc/systemd/network/05-a.network"
	manager = "root/etc/NetworkManager/conf.d/a.conf"
)

// TestHostManagers: files that keep a network manager off the primary ENI are found.
func TestHostManagers(t *testing.T) {
	checkHostNetwork(t, map[string]hostCase{
		"nothing to see": {func(*world) {}, OK, []string{"/node/sys does not show which network managers run"}},
		"networkd, well": {func(w *world) {
			w.networkd()
			w.write("root/etc/systemd/network/05-multi-eni.network", "[Match]\nDriver=ena\nProperty=!INTERFACE=ens5\n[Link]\nUnmanaged=yes\n", 0o644)
		}, OK, []string{"no file keeps systemd-networkd off the primary ENI's link ens5",
			"files that would keep network managers off the other ENIs: for systemd-networkd " + networkdRight}},
		"networkd, not visible": {func(w *world) { w.runs("systemd-networkd.service") }, OK, []string{"networkd.conf is not visible below /node/root"}},
		"foreign rules": {func(w *world) { w.runs("systemd-networkd.service"); w.visible() },
			Warn, []string{"(ManageForeignRoutingPolicyRules, ManageForeignRoutes)", networkdRight}},
		"the file of before": {func(w *world) {
			w.networkd()
			w.write(network, "[Match]\nDriver=ena\nName=!ens5\n[Link]\nUnmanaged=yes\n", 0o644)
		}, Fail, []string{"/etc/systemd/network/05-a.network makes systemd-networkd leave the primary ENI's link ens5 alone", networkdRight}},
		"by the driver": {func(w *world) {
			w.runs("NetworkManager.service")
			w.visible()
			w.write(manager, "[keyfile]\nunmanaged-devices=driver:ena\n", 0o644)
		}, Fail, []string{"/etc/NetworkManager/conf.d/a.conf makes NetworkManager leave", managerRight}},
		"of one of two managers": {func(w *world) {
			w.runs("NetworkManager.service")
			w.networkd()
			w.write(manager, "[keyfile]\nunmanaged-devices=*\n", 0o644)
		}, Warn, []string{"see that another manager has it"}},
		"who knows": {func(w *world) {
			w.networkd()
			w.write(network, "[Match]\nPath=pci-*\n[Link]\nUnmanaged=yes\n", 0o644)
		}, Warn, []string{"may make systemd-networkd leave the primary ENI's link ens5 alone"}},
		"unreadable": {func(w *world) {
			w.networkd()
			w.must(os.MkdirAll(w.path("root/etc/systemd/network"), 0o755))
			w.must(os.Symlink("nowhere", w.path(network)))
		}, Warn, []string{"files of systemd-networkd cannot be read"}},
	})
}

// TestHostLinkFaults: each thing that a network manager does to ENIs gives one finding, with the file for this node.
func TestHostLinkFaults(t *testing.T) {
	checkHostNetwork(t, map[string]hostCase{
		"address": {func(w *world) {
			w.runs("systemd-networkd.service")
			w.with(func(l *hostnet.HostLink) { l.Addresses = []string{"10.0.1.15/24"} })
		}, Warn, []string{"link ens6 of NodeENI fast: host address 10.0.1.15/24; for systemd-networkd " + networkdRight, "80-multi-eni.conf: '[Network]"}},
		"route, and no manager to be seen": {
			func(w *world) {
				w.with(func(l *hostnet.HostLink) { l.Routes = []string{"IPv4 default route (proto dhcp)"} })
			},
			Warn, []string{"link ens6 of NodeENI fast: IPv4 default route (proto dhcp)", networkdRight, managerRight},
		},
		"router advertisements": {func(w *world) {
			w.runs("NetworkManager.service")
			w.with(func(l *hostnet.HostLink) { l.AcceptRA = "1" })
		}, Warn, []string{"router advertisements on ens6 of NodeENI fast (accept_ra 1, forwarding 0); let the daemon switch that off"}},
		"router advertisements, though it forwards": {func(w *world) { w.with(func(l *hostnet.HostLink) { l.AcceptRA, l.Forwarding = "2", "1" }) }, Warn,
			[]string{"accept_ra 2, forwarding 1"}},
		"no advertisements where it forwards": {func(w *world) { w.with(func(l *hostnet.HostLink) { l.AcceptRA, l.Forwarding = "1", "1" }) }, OK,
			[]string{"links of NodeENIs in the host: 1, none"}},
		"no primary ENI": {func(w *world) {
			w.imds(make([]vpc.ENI, 1), nil)
			w.with(func(l *hostnet.HostLink) { l.Addresses = []string{"10.0.1.15/24"} })
		}, Warn, []string{"keep the host's network manager off ENIs other than the primary one (no file can be given"}},
		"two links with its MAC": {
			func(w *world) {
				w.o.HostLinks = func() ([]hostnet.HostLink, error) { return []hostnet.HostLink{primary(), primary()}, nil }
			},
			OK, []string{"2 links have the MAC 02:00:00:00:00:00 of the primary ENI"},
		},
		"links not to be read": {func(w *world) {
			w.o.HostLinks = func() ([]hostnet.HostLink, error) { return nil, errors.New("permission denied") }
		}, Fail, []string{"links cannot be read: permission denied"}},
	})
}
