// Package hostnet knows systemd-networkd and NetworkManager, the network managers of hosts. It returns the files that keep them off ENIs,
// and finds out from their files whether they leave a link alone. It writes nothing. Only HostLinks asks the kernel; the rest reads trees
// that it is given.
package hostnet

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Manager is a program that configures the links of a host.
type Manager string

// The known managers.
const (
	Networkd       Manager = "systemd-networkd"
	NetworkManager Manager = "NetworkManager"
)

// ENIDriver is the kernel driver of ENIs.
const ENIDriver = "ena"

// Where the files are. 05 comes before the files of images and of ec2-net-utils (70, 80):
// networkd takes the first file that matches a link.
const (
	networkFile        = "/etc/systemd/network/05-multi-eni.network"
	networkdConfFile   = "/etc/systemd/networkd.conf.d/80-multi-eni.conf"
	networkManagerFile = "/etc/NetworkManager/conf.d/80-multi-eni.conf"
)

// Paths returns the paths of all files that Files can return.
func Paths() []string { return []string{networkFile, networkdConfFile, networkManagerFile} }

// File is one file of the host.
type File struct {
	// Path is absolute, as the host sees it.
	Path    string
	Content string
}

// Files returns the files that keep a manager off all links of the driver but the primary ENI's. It refuses a name that is empty or has a
// meaning in the files' syntax: a file that could match the primary ENI takes the node offline.
//
// networkd (src/shared/net-condition.c) ignores an assignment that it cannot parse, and then matches without it. It compares Name= with the
// alternative names of the link as well, so that Name=!ens5 holds for every link that has one. Property=!INTERFACE= is compared with the
// uevent's INTERFACE, the link's only name.
func Files(m Manager, primary, driver string) ([]File, error) {
	if _, err := device.ParseInterfaceName(primary); err != nil {
		return nil, fmt.Errorf("name of the primary ENI's link: %w", err)
	}
	for kind, s := range map[string]string{"link": primary, "driver": driver} {
		if !plain(s) {
			return nil, fmt.Errorf("%s %q: want letters, digits, '-', '_' and '.' only, for others have a meaning in the files of %s", kind, s, m)
		}
	}
	switch m {
	case Networkd:
		return []File{
			{networkFile, "[Match]\nDriver=" + driver + "\nProperty=!INTERFACE=" + primary + "\n\n[Link]\nUnmanaged=yes\n"},
			{networkdConfFile, "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n"},
		}, nil
	case NetworkManager:
		return []File{{networkManagerFile, "[keyfile]\nunmanaged-devices=driver:" + driver + ";except:interface-name:" + primary + "\n"}}, nil
	}
	return nil, fmt.Errorf("no file is known for the network manager %q", m)
}

// plain says whether neither networkd (globs, quotes, escapes, specifiers) nor
// NetworkManager (globs, separators, "=", "~", "except:") reads more into s than itself.
func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s != ""
}

// Reload returns the command that makes a manager read the files.
func Reload(m Manager) string {
	if m == NetworkManager {
		return "nmcli general reload"
	}
	return "systemctl restart systemd-networkd"
}

// Advice describes in one line the files that keep the managers off ENIs, with their content as printf's argument. Without managers it
// gives the files of each known one. If the primary ENI's link is not known, it gives no file.
func Advice(managers []Manager, primary, driver string) string {
	if len(managers) == 0 {
		managers = []Manager{Networkd, NetworkManager}
	}
	var parts []string
	for _, m := range managers {
		files, err := Files(m, primary, driver)
		if err != nil {
			return fmt.Sprintf("keep the host's network manager off ENIs other than the primary one (no file can be given: %v)", err)
		}
		var writes []string
		for _, f := range files {
			writes = append(writes, fmt.Sprintf("write %s: '%s'", f.Path, strings.ReplaceAll(f.Content, "\n", `\n`)))
		}
		parts = append(parts, fmt.Sprintf("for %s %s, then run `%s`", m, strings.Join(writes, " and "), Reload(m)))
	}
	return strings.Join(parts, "; ")
}

// Adviser returns Advice for the managers that run on the host, as a function of the name of
// the primary ENI's link. sys is the host's /sys.
func Adviser(sys fs.FS) func(primary string) string {
	return func(primary string) string {
		managers, _ := Running(sys) // none known: Advice gives the files of all
		return Advice(managers, primary, ENIDriver)
	}
}

var units = map[Manager]string{Networkd: "systemd-networkd.service", NetworkManager: "NetworkManager.service"}

// Running returns the managers that run on the host. sys is the host's /sys. A unit has a control group while it runs. known is false
// if the tree does not show the control groups of the host's units; then managers is empty.
func Running(sys fs.FS) (managers []Manager, known bool) {
	// The second is the tree of control groups v1.
	for _, slice := range []string{"fs/cgroup/system.slice", "fs/cgroup/systemd/system.slice"} {
		if info, err := fs.Stat(sys, slice); err != nil || !info.IsDir() {
			continue
		}
		known = true
		for _, m := range []Manager{Networkd, NetworkManager} {
			if info, err := fs.Stat(sys, slice+"/"+units[m]); err == nil && info.IsDir() {
				managers = append(managers, m)
			}
		}
		return managers, known
	}
	return nil, false
}
