package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// ErrUnseen says that the kernel does not tell whether a program has the function open; records and allocations may.
var ErrUnseen = errors.New("the kernel does not tell which devices of the driver are open")

// InUse says whether a program has the function open, and by which sign. dev is the host's /dev. A function without a
// userspace driver is never open. The error is ErrUnseen, or names the missing file.
func InUse(sys sysfs.FS, dev string, fn sysfs.PCIFunction) (by string, open bool, err error) {
	switch {
	case fn.Driver == vfioPCI:
		return vfioInUse(dev, fn)
	case fn.UserspaceDriver():
		return uioInUse(sys, fn)
	}
	return "", false, nil
}

// uioInUse goes by the use count of the driver's module: only open files of its uio devices hold references, until
// closed and unmapped (uio_open and uio_release in drivers/uio/uio.c: try_module_get and module_put of idev->owner). A
// count of 0 proves that no device is open. A higher count tells which only if the driver has one device.
func uioInUse(sys sysfs.FS, fn sysfs.PCIFunction) (by string, open bool, err error) {
	users, counted, err := sys.ModuleUsers(fn.Driver)
	if err != nil || counted && users == 0 {
		return "", false, err
	}
	if !counted {
		return "", false, fmt.Errorf("%w: /sys/module/%s has no refcnt", ErrUnseen, fn.Driver)
	}
	devices, err := sys.Bound(fn.Driver)
	if err != nil {
		return "", false, err
	}
	if devices != 1 {
		return "", false, fmt.Errorf("%w: %s has %d devices, which are open %d times", ErrUnseen, fn.Driver, devices, users)
	}
	return "by the use count of " + fn.Driver + ", which has no other device", true, nil
}

// vfioInUse opens the group; a missing node is an error. The kernel lets a group be opened once (vfio_group_fops_open
// in drivers/vfio/group.c): EBUSY means that a program has it, or one of its devices by /dev/vfio/devices. Another
// program gets EBUSY meanwhile, so call it only before the function is taken. All functions of a group share it.
func vfioInUse(dev string, fn sysfs.PCIFunction) (node string, open bool, err error) {
	if fn.IOMMUGroup < 0 {
		return "", false, fmt.Errorf("ask vfio who uses %s: it has no IOMMU group", fn.Address)
	}
	// In no-IOMMU mode vfio makes a group, with a number from the same range (vfio_noiommu_group_alloc), and another
	// node name. Opening that takes CAP_SYS_RAWIO.
	group := strconv.Itoa(fn.IOMMUGroup)
	for _, name := range []string{group, "noiommu-" + group} {
		node = filepath.Join(dev, "vfio", name)
		if open, err = isOpen(node); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", false, fmt.Errorf("ask vfio who uses %s: %s has neither vfio/%s nor vfio/noiommu-%[3]s; mount the host's /dev/vfio, and name it by --dev",
			fn.Address, dev, group)
	case err != nil:
		return "", false, fmt.Errorf("ask vfio who uses %s: %w", fn.Address, err)
	}
	return node, open, nil
}

// isOpen opens a node that can be opened once only.
func isOpen(path string) (bool, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		switch {
		case err == nil:
			return false, unix.Close(fd)
		case errors.Is(err, unix.EBUSY):
			return true, nil
		case !errors.Is(err, unix.EINTR):
			return false, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}
