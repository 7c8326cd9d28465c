package sysfstree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Beginnings of PCI class codes (PCI Code and ID Assignment Specification).
const (
	classNetwork = "0x02"
	classBridge  = "0x06"
)

// userspaceDrivers and vfioModules are recorded if they exist, with or without a function.
var (
	userspaceDrivers = []string{"igb_uio", "uio_pci_generic", "vfio-pci"}
	vfioModules      = []string{"vfio", "vfio_iommu_type1", "vfio_pci"}
)

// Record returns the tree below root: its network functions, the bridges above them, the first device of
// another kind, the interfaces in the netns in which root was mounted, and their parts. The lines are
// sorted, so that the same machine in the same state gives the same tree.
func Record(root string) ([]byte, error) {
	r := recorder{root: root, chosen: map[string]string{}}
	if err := r.choose(); err != nil {
		return nil, fmt.Errorf("record sysfs: %w", err)
	}
	for _, step := range []func() error{r.functions, r.drivers, r.groups, r.interfaces, r.modules} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("record sysfs: %w", err)
		}
	}
	slices.Sort(r.lines)
	return []byte(strings.Join(r.lines, "\n") + "\n"), nil
}

type recorder struct {
	root string
	// chosen are the folders of the functions to record, below root, by address.
	chosen map[string]string
	lines  []string
}

func (r *recorder) path(elem ...string) string {
	return filepath.Join(r.root, filepath.Join(elem...))
}

func (r *recorder) line(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

// list returns the names in a folder, sorted; none for a missing folder.
func (r *recorder) list(elem ...string) ([]string, error) {
	entries, err := os.ReadDir(r.path(elem...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (r *recorder) attributes(dir string, names ...string) error {
	for _, name := range names {
		data, err := os.ReadFile(r.path(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r.line("%s/%s = %s", dir, name, strings.TrimSuffix(string(data), "\n"))
	}
	return nil
}

func (r *recorder) links(dir string, names ...string) error {
	for _, name := range names {
		target, err := os.Readlink(r.path(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		r.line("%s/%s -> %s", dir, name, target)
	}
	return nil
}

func (r *recorder) choose() error {
	root, err := filepath.EvalSymlinks(r.root)
	if err != nil {
		return err
	}
	addresses, err := r.list("bus/pci/devices")
	if err != nil {
		return err
	}
	other := false
	for _, addr := range addresses {
		folder, err := filepath.EvalSymlinks(r.path("bus/pci/devices", addr))
		if err != nil {
			return err
		}
		class, err := os.ReadFile(filepath.Join(folder, "class"))
		if err != nil {
			return err
		}
		network := strings.HasPrefix(string(class), classNetwork)
		if !network && (other || strings.HasPrefix(string(class), classBridge)) {
			continue
		}
		other = other || !network
		// The function, and above it its bridges.
		for ; folder != root; folder = filepath.Dir(folder) {
			if _, err := device.ParsePCIAddress(filepath.Base(folder)); err != nil {
				break // the root bus
			}
			if r.chosen[filepath.Base(folder)], err = filepath.Rel(root, folder); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *recorder) functions() error {
	for addr, dir := range r.chosen {
		names, err := r.list(dir)
		if err != nil {
			return err
		}
		links := []string{"driver", "iommu_group", "physfn"}
		holders := []string{dir}
		for _, n := range names {
			switch {
			case strings.HasPrefix(n, "virtfn"):
				links = append(links, n)
			case strings.HasPrefix(n, "virtio"):
				holders = append(holders, dir+"/"+n)
			}
		}
		err = errors.Join(
			r.attributes(dir, "vendor", "device", "class", "numa_node", "driver_override", "sriov_numvfs", "sriov_totalvfs"),
			r.links(dir, links...), r.links("bus/pci/devices", addr))
		for _, h := range holders {
			err = errors.Join(err, r.net(h))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *recorder) net(dir string) error {
	if _, err := os.Stat(r.path(dir, "net")); err != nil {
		return nil //nolint:nilerr // a device without interfaces, now as ever
	}
	names, err := r.list(dir, "net")
	if err != nil {
		return err
	}
	if len(names) == 0 {
		r.line("%s/net/", dir)
	}
	for _, n := range names {
		dir := dir + "/net/" + n
		if err := errors.Join(r.attributes(dir, "address", "mtu"), r.links(dir, "device")); err != nil {
			return err
		}
	}
	return nil
}

func (r *recorder) drivers() error {
	drivers, err := r.list("bus/pci/drivers")
	if err != nil {
		return err
	}
	for _, d := range drivers {
		dir, before := "bus/pci/drivers/"+d, len(r.lines)
		for addr := range r.chosen {
			if err := r.links(dir, addr); err != nil {
				return err
			}
		}
		if len(r.lines) == before && slices.Contains(userspaceDrivers, d) {
			r.line("%s/", dir)
		}
	}
	return nil
}

func (r *recorder) groups() error {
	groups, err := r.list("kernel/iommu_groups")
	if err != nil {
		return err
	}
	for _, g := range groups {
		for addr := range r.chosen {
			if err := r.links("kernel/iommu_groups/"+g+"/devices", addr); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *recorder) interfaces() error {
	names, err := r.list("class/net")
	if err != nil {
		return err
	}
	for _, n := range names {
		target, err := os.Readlink(r.path("class/net", n))
		if err != nil {
			continue // a file: bonding_masters
		}
		if n == "lo" {
			if err := r.attributes("devices/virtual/net/lo", "address", "mtu"); err != nil {
				return err
			}
		} else if !r.recorded(filepath.Join("class/net", target)) {
			continue
		}
		r.line("class/net/%s -> %s", n, target)
	}
	return nil
}

// recorded says whether a path below root is in the folder of a chosen function.
func (r *recorder) recorded(path string) bool {
	for _, dir := range r.chosen {
		if strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

func (r *recorder) modules() error {
	for _, m := range vfioModules {
		if _, err := os.Stat(r.path("module", m)); err != nil {
			continue
		}
		r.line("module/%s/", m)
		if err := r.attributes("module/"+m+"/parameters", "enable_unsafe_noiommu_mode"); err != nil {
			return err
		}
	}
	return nil
}
