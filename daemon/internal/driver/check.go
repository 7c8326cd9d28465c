package driver

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Policy has the operator's permissions.
type Policy struct {
	LoadModules        bool // load the modules of missing drivers (--load-modules)
	AllowUnsafeNoIOMMU bool // use vfio-pci without an IOMMU (--allow-unsafe-noiommu)
}

// Obstacle is why a function cannot be bound now. Message names function and remedy, and is stable while the obstacle
// lasts.
type Obstacle struct {
	Reason  nodestate.Reason
	Message string
}

// Check returns the obstacle to binding fn to a userspace driver; nil for none. all are the machine's functions;
// bindable says whether another function is to be bound too.
//
// Call it first: in a group shared with a kernel driver, the kernel binds vfio-pci, and fails only the program that
// opens the device (vfio_group_ioctl_set_container → iommu_group_claim_dma_owner).
func Check(fn sysfs.PCIFunction, driver string, all map[device.PCIAddress]sysfs.PCIFunction, bindable func(device.PCIAddress) bool, f Facts,
	p Policy) *Obstacle {
	if !userspace(driver) {
		return &Obstacle{reason.InvalidDPDKDriver, fmt.Sprintf("%q is not a userspace driver; give %s", driver, strings.Join(userspaceDrivers(), ", "))}
	}
	if o := untouchable(fn); o != nil {
		return o
	}
	if fn.Driver == driver {
		return nil
	}
	if !f.Loaded[driver] && (!p.LoadModules || !f.Loadable[driver]) {
		return notLoaded(fn.Address, driver, f, p)
	}
	if driver != vfioPCI {
		return nil // a uio driver knows nothing of IOMMUs
	}
	if fn.IOMMUGroup < 0 {
		return withoutIOMMU(fn.Address, f, p)
	}
	return sharedGroup(fn, all, bindable)
}

func notLoaded(addr device.PCIAddress, driver string, f Facts, p Policy) *Obstacle {
	way := ", or run multi-enid with --load-modules"
	switch {
	case p.LoadModules:
		way = "; multi-enid finds no such module below --modules-root: mount the host's /lib/modules"
	case !f.Loadable[driver]:
		way = ", or mount the host's /lib/modules and run multi-enid with --load-modules"
	}
	if driver == "igb_uio" {
		way += "; igb_uio is no part of Linux: build it from dpdk-kmods, or set spec.dpdkDriver to vfio-pci"
	}
	return &Obstacle{reason.DriverNotLoaded, fmt.Sprintf("%s cannot be bound to %s, which is not loaded; on the node run: modprobe %[2]s (and name it in "+
		"/etc/modules-load.d)%s", addr, driver, way)}
}

func withoutIOMMU(addr device.PCIAddress, f Facts, p Policy) *Obstacle {
	const iommu = "use an instance type with an IOMMU (bare metal) and boot its kernel with intel_iommu=on or amd_iommu=on"
	switch {
	case !p.AllowUnsafeNoIOMMU:
		return &Obstacle{reason.NoIOMMU, fmt.Sprintf("%s cannot be bound to vfio-pci, because it is behind no IOMMU; %s, "+
			"or accept that pods with DPDK can read and write all memory of the node, and run multi-enid with --allow-unsafe-noiommu", addr, iommu)}
	case f.Loaded[vfioPCI] && f.NoIOMMU == NoIOMMUAbsent:
		return &Obstacle{reason.NoIOMMU, fmt.Sprintf("%s cannot be bound to vfio-pci, because it is behind no IOMMU, and this kernel has no no-IOMMU mode "+
			"(CONFIG_VFIO_NOIOMMU); "+
			"boot one that has it, set spec.dpdkDriver to uio_pci_generic, or %s", addr, iommu)}
	}
	return nil
}

// sharedGroup looks at the other functions of an IOMMU group. A program gets the group only if none of them does DMA
// for a kernel driver: each has no driver, or one with driver_managed_dma, as vfio-pci, pci-stub, and pcieport for
// bridges (Documentation/driver-api/vfio.rst; before Linux 5.19 vfio_dev_viable in drivers/vfio/vfio.c). The uio
// drivers lack it.
func sharedGroup(fn sysfs.PCIFunction, all map[device.PCIAddress]sysfs.PCIFunction, bindable func(device.PCIAddress) bool) *Obstacle {
	var others []string
	for _, addr := range slices.Sorted(maps.Keys(all)) {
		other := all[addr]
		if addr == fn.Address || other.IOMMUGroup != fn.IOMMUGroup || harmless(other) || bindable(addr) {
			continue
		}
		others = append(others, fmt.Sprintf("%s (%s)", addr, other.Driver))
	}
	if len(others) == 0 {
		return nil
	}
	return &Obstacle{reason.IOMMUGroupShared, fmt.Sprintf("%s cannot be bound to vfio-pci, because its IOMMU group %d has functions with other drivers too: %s; "+
		"give them NodeENIs with enableDPDK, unbind them, or use a device with a group of its own", fn.Address, fn.IOMMUGroup, strings.Join(others, ", "))}
}

// classBridge is base class and subclass of PCI-to-PCI bridges.
const classBridge = 0x0604

func harmless(fn sysfs.PCIFunction) bool {
	return fn.Class>>8 == classBridge || fn.Driver == "" || fn.Driver == vfioPCI || fn.Driver == "pci-stub"
}
