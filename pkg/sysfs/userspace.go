package sysfs

import (
	"fmt"
	"os"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// noIOMMUGroup is the name of a group that vfio has made for a function without an IOMMU (vfio_noiommu_group_alloc in
// drivers/vfio/group.c). A real group has no name.
const noIOMMUGroup = "vfio-noiommu"

// VFIOGroup returns the number of a function's IOMMU group, as the kernel spells it, and whether vfio made the group
// for a function without an IOMMU. Its device node is /dev/vfio/<group>, or /dev/vfio/noiommu-<group>. The error is
// fs.ErrNotExist when the kernel does not list the function, or the function has no group.
func (f FS) VFIOGroup(addr device.PCIAddress) (group string, noIOMMU bool, err error) {
	dir, err := f.function(addr)
	if err != nil {
		return "", false, err
	}
	if group, err = linkBase(dir, "iommu_group"); err != nil {
		return "", false, fmt.Errorf("read IOMMU group of %s: %w", addr, err)
	}
	if _, err := parseIndex(group); err != nil {
		return "", false, fmt.Errorf("read IOMMU group of %s: %w", addr, err)
	}
	name, _, err := optional(f.path("kernel/iommu_groups", group), "name")
	if err != nil {
		return "", false, fmt.Errorf("read name of IOMMU group %s of %s: %w", group, addr, err)
	}
	return group, name == noIOMMUGroup, nil
}

// UIODevice returns the name of a function's device node in /dev, such as uio0. The error is fs.ErrNotExist when the
// kernel does not list the function, or no uio driver has it.
func (f FS) UIODevice(addr device.PCIAddress) (string, error) {
	dir, err := f.function(addr)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir + "/uio")
	if err != nil {
		return "", fmt.Errorf("read uio device of %s: %w", addr, err)
	}
	if len(entries) == 0 {
		return "", fmt.Errorf("read uio device of %s: %w", addr, os.ErrNotExist)
	}
	return entries[0].Name(), nil
}

// function returns the folder of a function, whose address is checked.
func (f FS) function(addr device.PCIAddress) (string, error) {
	if _, err := device.ParsePCIAddress(addr.String()); err != nil {
		return "", fmt.Errorf("read PCI function: %w", err)
	}
	return f.path("bus/pci/devices", addr.String()), nil
}
