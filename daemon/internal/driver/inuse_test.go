package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// What the kernel answers for an open group is shown on real hardware
// (test/hardware); here, what is asked, and what cannot be known.
func TestInUse(t *testing.T) {
	dev := t.TempDir()
	vfio := sysfs.PCIFunction{Address: nic, Driver: vfioPCI, IOMMUGroup: 7}
	fails := func(fn sysfs.PCIFunction, want string) {
		t.Helper()
		if node, open, err := InUse(dev, fn); err == nil || open || node != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, %v, %v; want %q", node, open, err, want)
		}
	}
	answers := func(fn sysfs.PCIFunction, want string) {
		t.Helper()
		if node, open, err := InUse(dev, fn); err != nil || open || node != want {
			t.Errorf("%q, %v, %v; want %q and not open", node, open, err, want)
		}
	}
	for _, driver := range []string{"", "ena", "uio_pci_generic", "igb_uio"} {
		answers(sysfs.PCIFunction{Address: nic, Driver: driver, IOMMUGroup: 7}, "")
	}
	fails(sysfs.PCIFunction{Address: nic, Driver: vfioPCI, IOMMUGroup: -1}, "no IOMMU group")
	fails(vfio, "vfio/noiommu-7; mount the host's /dev/vfio")
	if err := os.Mkdir(filepath.Join(dev, "vfio"), 0o755); err != nil {
		t.Fatal(err)
	}
	group, noIOMMU := filepath.Join(dev, "vfio/7"), filepath.Join(dev, "vfio/noiommu-7")
	if err := os.WriteFile(noIOMMU, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	answers(vfio, noIOMMU)
	if err := os.Symlink(noIOMMU, group); err != nil {
		t.Fatal(err)
	}
	fails(vfio, "too many levels of symbolic links") // it is no node of the kernel's
	if err := os.Remove(group); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(group, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	answers(vfio, group)
}
