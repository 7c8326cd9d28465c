package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// IP is the node's address. The kubelet refuses a loopback one.
const IP = "10.88.0.1"

// ServiceIP is the first address of the service range, kubernetes'. The node has it, since there is no kube-proxy.
const ServiceIP = "10.0.0.1"

// prepare sets up the namespaces. /run and /var/lib are the node's own and shared, as under systemd, so that pods see
// mounts if they ask for them. /etc is a copy. /opt is empty, for installers. /proc belongs to the pid namespace. The
// node has an address and a default route to nowhere, which kube-apiserver and kubelet need.
func prepare(dir string) error {
	lib, etc := filepath.Join(dir, "var-lib"), filepath.Join(dir, "etc")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		return err
	}
	if err := copyEtc(etc); err != nil {
		return fmt.Errorf("copy /etc: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// `ip netns` leaves a mount, which containerd also finds below the new /run, and refuses as private.
	if err := unix.Unmount("/run/netns", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount /run/netns: %w", err)
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"proc", "/proc", "proc", 0},
		{"tmpfs", "/run", "tmpfs", 0},
		{"", "/run", "", unix.MS_SHARED},
		{lib, "/var/lib", "", unix.MS_BIND}, // no tmpfs: the kubelet wants to know how full its disk is
		{"", "/var/lib", "", unix.MS_SHARED},
		{etc, "/etc", "", unix.MS_BIND},
		{"tmpfs", "/opt", "tmpfs", 0},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	return prepareLinks()
}

func copyEtc(to string) error {
	root, err := os.OpenRoot("/etc")
	if err != nil {
		return err
	}
	defer root.Close()
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"passwd", "group", "hosts", "nsswitch.conf", "resolv.conf", "ssl/certs/ca-certificates.crt", "protocols", "services",
		"os-release", "machine-id"} {
		data, err := root.ReadFile(name)
		if err != nil {
			continue // which of them there are differs
		}
		path := filepath.Join(to, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func prepareLinks() error {
	la := netlink.NewLinkAttrs()
	la.Name = "node0"
	link := &netlink.Veth{LinkAttrs: la, PeerName: "node0-peer"}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add node0: %w", err)
	}
	addr, err := netlink.ParseAddr(IP + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give node0 an address: %w", err)
	}
	for _, name := range []string{"lo", "node0", "node0-peer"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "lo" {
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP(ServiceIP))}); err != nil {
				return fmt.Errorf("give lo the address of the service kubernetes: %w", err)
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	gateway, err := netlink.ParseAddr("10.88.0.254/32")
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.IP}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

const cgroupMount = "/sys/fs/cgroup"

// cgroupName is the cgroup of this test binary's pods, in every hierarchy: two binaries may run at once.
func cgroupName(part string) string {
	exe, err := os.Executable()
	if err != nil {
		panic(err) // Linux without /proc
	}
	return strings.TrimSuffix("multi-eni-"+filepath.Base(exe)+"-"+part, "-")
}

// hierarchies are the folders in which the node needs a cgroup: each of cgroup v1, or the one of v2.
func hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return []string{cgroupMount}, nil
	}
	all, err := filepath.Glob(filepath.Join(cgroupMount, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cgroups at %s: a container without them cannot be a node", cgroupMount)
	}
	for i := range all {
		all[i] = filepath.Dir(all[i])
	}
	return all, nil
}

// makeCgroups makes the root of the kubelet's cgroups with every controller; v1 needs cpus and mems (cgroups(7)).
func makeCgroups(part string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		dir := filepath.Join(h, cgroupName(part))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if h == cgroupMount {
			return delegate(h, dir)
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(h, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	return nil
}

// delegate turns the controllers of cgroup v2 on in the parent and in dir.
func delegate(parent, dir string) error {
	controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	on := "+" + strings.Join(strings.Fields(string(controllers)), " +")
	for _, d := range []string{parent, dir} {
		if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte(on), 0o644); err != nil {
			return fmt.Errorf("make cgroup: turn on %s in %s: %w", on, d, err)
		}
	}
	return nil
}

// removeCgroups removes the empty cgroups from the inside out. It leaves others, which do no harm.
func removeCgroups(part string) {
	all, err := hierarchies()
	if err != nil {
		return
	}
	for _, h := range all {
		var dirs []string
		find := func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		}
		filepath.WalkDir(filepath.Join(h, cgroupName(part)), find) //nolint:errcheck,gosec // find returns no error
		for i := len(dirs) - 1; i >= 0; i-- {
			unix.Rmdir(dirs[i]) //nolint:errcheck,gosec // see above
		}
	}
}
