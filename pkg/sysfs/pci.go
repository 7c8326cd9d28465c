package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// PCIFunction is one PCI function as /sys/bus/pci/devices/<address> shows it.
type PCIFunction struct {
	Address device.PCIAddress
	Vendor  uint16
	Device  uint16
	// Class is the 24-bit class code: base class, subclass, interface. An Ethernet controller is 0x020000.
	Class uint32
	// Driver is the bound driver; "" when none is.
	Driver string
	// PhysFn is the PF that a VF belongs to; "" for a function that is no VF.
	PhysFn device.PCIAddress
	// VirtFns are a PF's enabled VFs by VF number; empty for any other function.
	VirtFns []device.PCIAddress
	// Interfaces are the function's network interfaces that the netns in which
	// sysfs was mounted can see, sorted. An interface inside a pod is not here.
	Interfaces []string
	// IOMMUGroup is the number of the function's IOMMU group, -1 without IOMMU.
	IOMMUGroup int
	// NUMANode is -1 when the firmware does not say.
	NUMANode int
	// Instance tells the function from any other that has its address later in the same boot: the number of its folder,
	// which the kernel gives out once (__kernfs_new_node in fs/kernfs/dir.c). 0 is no function's.
	Instance uint64
}

// IsEFA says whether the function is an AWS Elastic Fabric Adapter, which this project never touches.
func (p PCIFunction) IsEFA() bool {
	return p.Driver == "efa" || p.Vendor == 0x1d0f && p.Device >= 0xefa0 && p.Device <= 0xefa3
}

// UserspaceDriver says whether the function is handed to a userspace program
// (DPDK), so that it has no network interface in any netns.
func (p PCIFunction) UserspaceDriver() bool {
	switch p.Driver {
	case "vfio-pci", "uio_pci_generic", "igb_uio":
		return true
	}
	return false
}

// PCIAddresses lists every PCI function of the machine, sorted. An error means
// that the list is not known; it is never fs.ErrNotExist.
func (f FS) PCIAddresses() ([]device.PCIAddress, error) {
	entries, err := os.ReadDir(f.path("bus/pci/devices"))
	if err != nil {
		return nil, unreadable("list of PCI functions", err)
	}
	addrs := make([]device.PCIAddress, 0, len(entries))
	for _, e := range entries {
		addr, err := device.ParsePCIAddress(e.Name())
		if err != nil {
			continue // the kernel names nothing but functions here
		}
		addrs = append(addrs, addr)
	}
	slices.Sort(addrs)
	return addrs, nil
}

// PCI reads one PCI function. The error is fs.ErrNotExist when the kernel does
// not list it; any other error means that its state is not known.
//
// It never waits for a driver: nothing is read that the kernel shows only under
// the device's lock, as it does driver_override and sriov_numvfs.
func (f FS) PCI(addr device.PCIAddress) (PCIFunction, error) {
	if _, err := device.ParsePCIAddress(addr.String()); err != nil {
		return PCIFunction{}, fmt.Errorf("read PCI function: %w", err)
	}
	dir := f.path("bus/pci/devices", addr.String())
	p, err := readFunction(dir, addr)
	if err != nil {
		return PCIFunction{}, gone(dir, err)
	}
	return p, nil
}

func readFunction(dir string, addr device.PCIAddress) (PCIFunction, error) {
	p := PCIFunction{Address: addr, IOMMUGroup: -1, NUMANode: -1}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return p, err
	}
	if err := readIDs(dir, &p); err != nil {
		return p, err
	}
	has := func(name string) bool { // a name that is not listed need not be tried
		_, ok := slices.BinarySearchFunc(entries, name, func(e fs.DirEntry, n string) int { return strings.Compare(e.Name(), n) })
		return ok
	}
	if err := readDriver(dir, has, &p); err != nil {
		return p, err
	}
	if err := readVFs(dir, has, entries, &p); err != nil {
		return p, err
	}
	if err := readPlace(dir, has, &p); err != nil {
		return p, err
	}
	if p.Interfaces, err = interfaces(dir, entries); err != nil {
		return p, err
	}
	// A function that is removed meanwhile loses its links one by one: the parts read then never stood together.
	var folder syscall.Stat_t
	if err := syscall.Stat(dir, &folder); err != nil {
		return p, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	p.Instance = folder.Ino
	return p, nil
}

func readIDs(dir string, p *PCIFunction) error {
	read := func(name string, bits int) (uint64, error) {
		s, err := attribute(dir, name)
		if err != nil {
			return 0, err
		}
		v, err := parseHex(s, bits)
		if err != nil {
			return 0, fmt.Errorf("parse %s: %w", name, err)
		}
		return v, nil
	}
	vendor, err := read("vendor", 16)
	if err != nil {
		return err
	}
	dev, err := read("device", 16)
	if err != nil {
		return err
	}
	class, err := read("class", 24)
	if err != nil {
		return err
	}
	p.Vendor, p.Device, p.Class = uint16(vendor), uint16(dev), uint32(class) //nolint:gosec // bounded by bits above
	return nil
}

func readDriver(dir string, has func(string) bool, p *PCIFunction) (err error) {
	if has("driver") {
		if p.Driver, err = linkBase(dir, "driver"); err != nil {
			return err
		}
	}
	return nil
}

// readVFs reads the links between a PF and its VFs (Documentation/PCI/pci-iov-howto.rst).
func readVFs(dir string, has func(string) bool, entries []fs.DirEntry, p *PCIFunction) error {
	if has("physfn") {
		pf, err := linkBase(dir, "physfn")
		if err != nil {
			return err
		}
		if p.PhysFn, err = device.ParsePCIAddress(pf); err != nil {
			return fmt.Errorf("parse physfn: %w", err)
		}
	}
	vfs := map[int]device.PCIAddress{}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "virtfn")
		if !ok {
			continue
		}
		n, err := parseIndex(number)
		if err != nil {
			return fmt.Errorf("parse %s: %w", e.Name(), err)
		}
		vf, err := linkBase(dir, e.Name())
		if err != nil {
			return err
		}
		if vf == "" {
			continue // disabled since the folder was listed
		}
		if vfs[n], err = device.ParsePCIAddress(vf); err != nil {
			return fmt.Errorf("parse %s: %w", e.Name(), err)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(vfs)) {
		p.VirtFns = append(p.VirtFns, vfs[n])
	}
	return nil
}

func readPlace(dir string, has func(string) bool, p *PCIFunction) error {
	if has("iommu_group") {
		group, err := linkBase(dir, "iommu_group")
		if err != nil {
			return err
		}
		if p.IOMMUGroup, err = parseIndex(group); err != nil {
			return fmt.Errorf("parse iommu_group: %w", err)
		}
	}
	node, ok, err := optional(dir, "numa_node")
	if err != nil || !ok {
		return err
	}
	if p.NUMANode, err = parseIndex(node); err != nil {
		return fmt.Errorf("parse numa_node: %w", err)
	}
	return nil
}

// interfaces lists net/ of a function, and of a virtio device below it: the
// parent of a virtio interface is the virtio device, not the PCI function.
func interfaces(dir string, entries []fs.DirEntry) ([]string, error) {
	holders := []string{dir}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "virtio") {
			holders = append(holders, filepath.Join(dir, e.Name()))
		}
	}
	var names []string
	for _, holder := range holders {
		nets, err := os.ReadDir(filepath.Join(holder, "net"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, n := range nets {
			names = append(names, n.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// DriverOverride returns the only driver that the kernel may bind to a function; "" when any may. The error is
// fs.ErrNotExist when the kernel does not list it; any other error means that the value is not known.
//
// The kernel shows it under the device's lock (driver_override_show in drivers/pci/pci-sysfs.c), which an unbind holds
// for as long as it waits for the program that has the device open. No signal ends that: read it only in a process that
// may hang.
func (f FS) DriverOverride(addr device.PCIAddress) (string, error) {
	if _, err := device.ParsePCIAddress(addr.String()); err != nil {
		return "", fmt.Errorf("read driver_override: %w", err)
	}
	dir := f.path("bus/pci/devices", addr.String())
	s, err := attribute(dir, "driver_override")
	if err != nil {
		return "", gone(dir, err)
	}
	return parseOverride(s), nil
}

// Bound returns how many functions a PCI driver has. A driver that is not there has none.
func (f FS) Bound(driver string) (int, error) {
	there, err := f.PCIDriver(driver)
	if err != nil || !there {
		return 0, err
	}
	path := f.path("bus/pci/drivers", driver)
	entries, err := os.ReadDir(path)
	if err != nil {
		return 0, unreadable(path, err)
	}
	n := 0
	for _, e := range entries {
		if _, err := device.ParsePCIAddress(e.Name()); err == nil {
			n++
		}
	}
	return n, nil
}

// PCIDriver says whether a PCI driver is registered, that is loaded or built into the kernel:
// /sys/bus/pci/drivers/<name>. An error means that it is not known; it is never fs.ErrNotExist.
func (f FS) PCIDriver(name string) (bool, error) {
	return f.listed("bus/pci/drivers", name)
}
