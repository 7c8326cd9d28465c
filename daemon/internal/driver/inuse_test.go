package driver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// TestInUse checks the files that are opened, and the unknown cases. The kernel's answers for an
// open group are shown on real hardware (test/hardware).
func TestInUse(t *testing.T) {
	dev := t.TempDir()
	vfio := sysfs.PCIFunction{Address: nic, Driver: vfioPCI, IOMMUGroup: 7}
	fails := func(fn sysfs.PCIFunction, want string) {
		t.Helper()
		if node, open, err := InUse(sysfs.NewFS(t.TempDir()), dev, fn); err == nil || open || node != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, %v, %v; want %q", node, open, err, want)
		}
	}
	answers := func(fn sysfs.PCIFunction, want string) {
		t.Helper()
		if node, open, err := InUse(sysfs.NewFS(t.TempDir()), dev, fn); err != nil || open || node != want {
			t.Errorf("%q, %v, %v; want %q and not open", node, open, err, want)
		}
	}
	for _, driver := range []string{"", "ena"} {
		answers(sysfs.PCIFunction{Address: nic, Driver: driver, IOMMUGroup: 7}, "")
	}
	fails(sysfs.PCIFunction{Address: nic, Driver: vfioPCI, IOMMUGroup: -1}, "no IOMMU group")
	fails(vfio, "vfio/noiommu-7; mount the host's /dev/vfio")
	must(t, os.Mkdir(filepath.Join(dev, "vfio"), 0o755))
	group, noIOMMU := filepath.Join(dev, "vfio/7"), filepath.Join(dev, "vfio/noiommu-7")
	must(t, os.WriteFile(noIOMMU, nil, 0o600))
	answers(vfio, noIOMMU)
	must(t, os.Symlink(noIOMMU, group))
	fails(vfio, "too many levels of symbolic links") // it is no node of the kernel's
	must(t, os.Remove(group))
	must(t, os.WriteFile(group, nil, 0o600))
	answers(vfio, group)
}

// TestUIOInUse: a use count of 0 is proof, a higher one only where the driver has
// one device; without a count nothing is known.
func TestUIOInUse(t *testing.T) {
	const driver = "uio_pci_generic"
	for name, tc := range map[string]struct {
		refcnt  string // "" for no such file
		devices []string
		open    bool
		unseen  bool
		fails   string
	}{
		"nobody has any":        {refcnt: "0\n", devices: []string{nic.String(), "0000:00:07.0"}},
		"the only one is open":  {refcnt: "2\n", devices: []string{nic.String()}, open: true},
		"one of two is open":    {refcnt: "1\n", devices: []string{nic.String(), "0000:00:07.0"}, unseen: true},
		"built into the kernel": {devices: []string{nic.String()}, unseen: true},
		"is being unloaded":     {refcnt: "-1\n", devices: []string{nic.String()}, fails: "refcnt"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, d := range append([]string{"bind"}, tc.devices...) {
				must(t, os.MkdirAll(filepath.Join(root, "bus/pci/drivers", driver, d), 0o755))
			}
			module := filepath.Join(root, "module", driver)
			must(t, os.MkdirAll(module, 0o755))
			if tc.refcnt != "" {
				must(t, os.WriteFile(filepath.Join(module, "refcnt"), []byte(tc.refcnt), 0o600))
			}
			by, open, err := InUse(sysfs.NewFS(root), t.TempDir(), sysfs.PCIFunction{Address: nic, Driver: driver, IOMMUGroup: -1})
			if open != tc.open || errors.Is(err, ErrUnseen) != tc.unseen || (by != "") != open {
				t.Errorf("%q, %v, %v", by, open, err)
			}
			if fails := err != nil && !tc.unseen; fails != (tc.fails != "") || fails && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("error %v, want %q", err, tc.fails)
			}
		})
	}
}
