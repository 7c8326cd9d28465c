package sysfstree

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// rootBus is the folder of a function that is behind no bridge.
const rootBus = "pci0000:00"

// Function is a PCI function to plug into a tree, in the recorded ones' form, for hardware that no test machine has.
type Function struct {
	Address string
	// Folder is its place below devices; "" is the root bus.
	Folder string
	// Vendor, Device and Class are in sysfs's form; "" are AWS (0x1d0f), ENA (0xec20) and Ethernet (0x020000).
	Vendor, Device, Class string
	// Driver is the bound driver; "" for none.
	Driver string
	// Override is driver_override; "" permits any driver.
	Override string
	// NUMANode is -1 if unknown.
	NUMANode int
	// IOMMUGroup is the group's number; "" without IOMMU.
	IOMMUGroup string
	// PhysFn is a VF's PF, and VirtFns are a PF's VFs, by address.
	PhysFn  string
	VirtFns []string
	// TotalVFs is a PF's greatest number of VFs; 0 for other functions.
	TotalVFs int
	// Interfaces are its interfaces in the host's netns.
	Interfaces []Interface
}

// Interface is a network interface of a Function.
type Interface struct {
	Name string
	MAC  string
	MTU  int
}

func (f Function) folder() string {
	return "devices/" + cmp.Or(f.Folder, rootBus+"/"+f.Address)
}

// Tree is the function as lines of a tree.
func (f Function) Tree() string {
	dir := f.folder()
	up := strings.Repeat("../", strings.Count(dir, "/")+1)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("bus/pci/devices/%s -> ../../../%s", f.Address, dir)
	line("%s/vendor = %s", dir, cmp.Or(f.Vendor, "0x1d0f"))
	line("%s/device = %s", dir, cmp.Or(f.Device, "0xec20"))
	line("%s/class = %s", dir, cmp.Or(f.Class, "0x020000"))
	line("%s/numa_node = %d", dir, f.NUMANode)
	line("%s/driver_override = %s", dir, cmp.Or(f.Override, "(null)"))
	if f.Driver != "" {
		line("%s/driver -> %sbus/pci/drivers/%s", dir, up, f.Driver)
		line("bus/pci/drivers/%s/%s -> ../../../../%s", f.Driver, f.Address, dir)
	}
	if f.IOMMUGroup != "" {
		line("%s/iommu_group -> %skernel/iommu_groups/%s", dir, up, f.IOMMUGroup)
		line("kernel/iommu_groups/%s/devices/%s -> ../../../../%s", f.IOMMUGroup, f.Address, dir)
	}
	if f.PhysFn != "" {
		line("%s/physfn -> ../%s", dir, f.PhysFn)
	}
	if f.TotalVFs != 0 {
		line("%s/sriov_totalvfs = %d", dir, f.TotalVFs)
		line("%s/sriov_numvfs = %d", dir, len(f.VirtFns))
	}
	for i, vf := range f.VirtFns {
		line("%s/virtfn%d -> ../%s", dir, i, vf)
	}
	for _, i := range f.Interfaces {
		line("%s/net/%s/address = %s", dir, i.Name, i.MAC)
		line("%s/net/%s/mtu = %d", dir, i.Name, i.MTU)
		line("%s/net/%s/device -> ../../../%s", dir, i.Name, f.Address)
		line("class/net/%s -> ../../%s/net/%s", i.Name, dir, i.Name)
	}
	if len(f.Interfaces) == 0 && f.Driver != "" && !slices.Contains(userspaceDrivers, f.Driver) && f.network() {
		line("%s/net/", dir) // they are in another netns
	}
	return b.String()
}

func (f Function) network() bool { return f.Class == "" || strings.HasPrefix(f.Class, classNetwork) }

// Plug adds the function to the tree at root.
func Plug(root string, f Function) error {
	if err := Grow(root, f.Tree()); err != nil {
		return fmt.Errorf("plug %s: %w", f.Address, err)
	}
	return nil
}

// Unplug removes a function, if there is one, and all links to it from the tree at root.
func Unplug(root, address string) error {
	link := filepath.Join(root, "bus/pci/devices", address)
	folder, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(unlist(root, address), remove(filepath.Join(root, "bus/pci/drivers/*", address)),
			remove(filepath.Join(root, "kernel/iommu_groups/*/devices", address)),
			os.RemoveAll(filepath.Join(filepath.Dir(link), folder)), os.Remove(link))
	}
	if err != nil {
		return fmt.Errorf("unplug %s: %w", address, err)
	}
	return nil
}

// Bind binds a function to another driver and removes its interfaces; it makes no new ones. The driver
// appears together with its function, so a reader hardly sees it loaded but not bound.
func Bind(root, address, driver string) error {
	dir := filepath.Join(root, "bus/pci/devices", address)
	folder, err := os.Readlink(dir)
	if err != nil {
		return fmt.Errorf("bind %s: %w", address, err)
	}
	folder = strings.TrimLeft(folder, "./")
	up := strings.Repeat("../", strings.Count(folder, "/")+1)
	err = errors.Join(unlist(root, address), remove(filepath.Join(root, "bus/pci/drivers/*", address)), remove(filepath.Join(dir, "driver")),
		os.RemoveAll(filepath.Join(dir, "net")))
	if err == nil && driver != "" {
		err = Grow(root, fmt.Sprintf("%s/driver -> %sbus/pci/drivers/%s\nbus/pci/drivers/%s/%s -> ../../../../%s\n", folder, up, driver, driver, address, folder))
	}
	if err != nil {
		return fmt.Errorf("bind %s to %s: %w", address, driver, err)
	}
	return nil
}

// unlist takes the function's interfaces from the list of all interfaces.
func unlist(root, address string) error {
	names, err := os.ReadDir(filepath.Join(root, "bus/pci/devices", address, "net"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, n := range names {
		err = errors.Join(err, remove(filepath.Join(root, "class/net", n.Name())))
	}
	return err
}

func remove(pattern string) error {
	found, err := filepath.Glob(pattern)
	for _, path := range found {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
