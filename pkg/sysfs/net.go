package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// NetPCI returns the PCI function below a network interface, from /sys/class/net/<ifname>/device. It is "" for an
// interface without one: virtual interfaces, and interfaces of other buses. A virtio interface's function is the parent
// of its virtio device. The error is fs.ErrNotExist when there is no such interface in the netns in which sysfs was
// mounted.
func (f FS) NetPCI(ifname string) (device.PCIAddress, error) {
	if _, err := device.ParseInterfaceName(ifname); err != nil {
		return "", fmt.Errorf("read PCI function of interface: %w", err)
	}
	dir := f.path("class/net", ifname)
	link := filepath.Join(dir, "device")
	if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); err != nil {
			return "", gone(dir, err)
		}
		return "", nil
	}
	parent, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", gone(dir, err)
	}
	if strings.HasPrefix(filepath.Base(parent), "virtio") {
		parent = filepath.Dir(parent)
	}
	addr, err := device.ParsePCIAddress(filepath.Base(parent))
	if err != nil {
		return "", nil //nolint:nilerr // a device of another bus, such as USB
	}
	return addr, nil
}
