package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

const vfioPCI = "vfio-pci"

// drivers checks the needs of each userspace driver that a NodeENI wants or a device has.
func drivers(ctx context.Context, o Options) []Finding {
	const check = "drivers"
	wanted, err := o.Drivers(ctx)
	var all []Finding
	if err != nil {
		all = warn(check, "see the findings above", "it is not known which are wanted: %v", err)
	}
	users := map[string][]string{}
	for name, nodeENIs := range wanted {
		users[name] = []string{"NodeENI " + list(nodeENIs)}
	}
	for name, devices := range bound(o) {
		users[name] = append(users[name], "device "+list(devices))
	}
	if len(users) == 0 && err != nil {
		return all
	}
	facts, err := driver.ReadFacts(sysfs.NewFS(o.Sysfs), o.ModulesRoot)
	if err != nil {
		return append(all, warn(check, "mount the host's /sys there, or correct --sysfs", "%v", err)...)
	}
	if len(users) == 0 {
		return ok(check, "no NodeENI of this node wants a userspace driver (vfio-pci loaded: %v)", facts.Loaded[vfioPCI])
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		all = append(all, loaded(name, list(users[name]), facts, o)...)
	}
	if users[vfioPCI] == nil {
		return all
	}
	all = append(all, iommu(facts, o)...)
	return append(all, nodes(facts, o)...)
}

// bound returns the userspace drivers of devices in the checkpoint, each with the devices'
// ENIs. It returns none if the checkpoint cannot be read; another check reports that.
func bound(o Options) map[string][]string {
	drivers := map[string][]string{}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(o.StateDir))
	if err != nil {
		return drivers
	}
	for _, d := range c.Devices {
		if (sysfs.PCIFunction{Driver: d.Driver}).UserspaceDriver() {
			drivers[d.Driver] = append(drivers[d.Driver], d.ENIID.String())
		}
	}
	return drivers
}

func loaded(name, users string, facts driver.Facts, o Options) []Finding {
	const check = "drivers"
	modprobe := fmt.Sprintf("run: modprobe %s, and name it in /etc/modules-load.d", name)
	folder := filepath.Join(o.ModulesRoot, "lib/modules")
	switch {
	case facts.Loaded[name]:
		return ok(check, "%s is loaded, for %s", name, users)
	case o.DriverPolicy.LoadModules && facts.Loadable[name]:
		return ok(check, "%s is not loaded yet; multi-enid loads it from %s, for %s", name, folder, users)
	case o.DriverPolicy.LoadModules:
		return fail(check, "mount the host's /lib/modules (hostPath), or correct --modules-root; or "+modprobe,
			"%s is not loaded, which %s wants, and the running kernel's modules in %s do not have it", name, users, folder)
	case facts.Loadable[name]:
		return fail(check, modprobe+"; or give multi-enid --load-modules", "%s is not loaded, which %s wants", name, users)
	}
	return fail(check, modprobe+"; or give multi-enid --load-modules and the host's /lib/modules", "%s is not loaded, which %s wants", name, users)
}

// iommu looks for an IOMMU, which keeps a program from the memory of others, or else for vfio's mode without one.
func iommu(facts driver.Facts, o Options) []Finding {
	const check = "IOMMU"
	const remedy = "use an instance type with an IOMMU (bare metal) and boot its kernel with intel_iommu=on or amd_iommu=on"
	f := sysfs.NewFS(o.Sysfs)
	addrs, err := f.PCIAddresses()
	if err != nil || len(addrs) == 0 {
		return nil // the check of sysfs tells
	}
	there, err := hasIOMMU(f, addrs, facts)
	switch {
	case err != nil:
		return warn(check, "run doctor again; if it stays so, correct --sysfs", "it is not known whether there is one: %v", err)
	case there:
		return ok(check, "there is one, and the kernel uses it")
	case !o.DriverPolicy.AllowUnsafeNoIOMMU:
		return fail(check, remedy+", or accept that pods with DPDK can read and write all memory of the node, and give multi-enid --allow-unsafe-noiommu",
			"there is none, or the kernel does not use it, so vfio-pci cannot be bound")
	case facts.Loaded[vfioPCI] && facts.NoIOMMU == driver.NoIOMMUAbsent:
		return fail(check, "boot a kernel with CONFIG_VFIO_NOIOMMU, set spec.dpdkDriver to uio_pci_generic, or "+remedy,
			"there is none, and this kernel has no mode without one")
	case facts.NoIOMMU == driver.NoIOMMUOn:
		return ok(check, "there is none; vfio's mode without one is on, so pods with DPDK can reach all memory of the node")
	}
	return ok(check, "there is none; multi-enid switches vfio's mode without one on when it binds a device, as --allow-unsafe-noiommu says")
}

// hasIOMMU says whether a PCI function is in a group of an IOMMU. An IOMMU has all functions
// of the machine behind it. vfio makes groups too, in its mode without an IOMMU.
func hasIOMMU(f sysfs.FS, addrs []device.PCIAddress, facts driver.Facts) (bool, error) {
	for _, addr := range addrs {
		fn, err := f.PCI(addr)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if fn.IOMMUGroup >= 0 && (fn.Driver != vfioPCI || facts.NoIOMMU != driver.NoIOMMUOn) {
			return true, nil
		}
	}
	return false, nil
}

// nodes looks for the folder of vfio's groups. It opens none: a program that opened the group at that moment would fail.
func nodes(facts driver.Facts, o Options) []Finding {
	const check = "vfio nodes"
	folder := filepath.Join(o.Dev, "vfio")
	_, err := os.Stat(folder)
	switch {
	case err == nil:
		return ok(check, "%s is there", folder)
	case errors.Is(err, fs.ErrNotExist) && !facts.Loaded[vfioPCI]:
		return ok(check, "%s is not there yet; it comes with vfio-pci", folder)
	}
	return fail(check, "mount the host's /dev/vfio there (hostPath, and a privileged container), or correct --dev; until then no device is taken back from "+
		"vfio-pci, since a program may use it",
		"who uses a device cannot be seen: %v", err)
}
