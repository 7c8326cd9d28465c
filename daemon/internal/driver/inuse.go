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

// InUse says whether a program has the function open through vfio, and by which
// node. dev is where the host's /dev is mounted. Of a function with another
// driver it is not known: "", false, nil. An error means that it is not known
// either, though it should be; a missing node is one.
//
// The kernel lets a group be opened once (vfio_group_fops_open in
// drivers/vfio/group.c): EBUSY means that somebody has it, or a device of it by
// way of /dev/vfio/devices. So the group is opened here, and closed at once: a
// program that opens it at that very moment gets EBUSY. Ask only when the
// function is about to be taken from everybody. A group is shared by all of its
// functions; one with several is in use as long as any of them is.
func InUse(dev string, fn sysfs.PCIFunction) (node string, open bool, err error) {
	if fn.Driver != vfioPCI {
		return "", false, nil
	}
	if fn.IOMMUGroup < 0 {
		return "", false, fmt.Errorf("ask vfio who uses %s: it has no IOMMU group", fn.Address)
	}
	// In no-IOMMU mode vfio makes a group, with a number from the same range
	// (vfio_noiommu_group_alloc), and calls its node by another name. Opening
	// that takes CAP_SYS_RAWIO.
	group := strconv.Itoa(fn.IOMMUGroup)
	for _, name := range []string{group, "noiommu-" + group} {
		node = filepath.Join(dev, "vfio", name)
		if open, err = isOpen(node); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", false, fmt.Errorf("ask vfio who uses %s: %s has neither vfio/%s nor vfio/noiommu-%[3]s; mount the host's /dev/vfio, and name it by --dev", fn.Address, dev, group)
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
