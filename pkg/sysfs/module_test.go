package sysfs

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestDriversAndModules(t *testing.T) {
	root := t.TempDir()
	for _, line := range []string{
		"bus/pci/drivers/vfio-pci/",
		"module/vfio/parameters/enable_unsafe_noiommu_mode = N",
		"module/vfio_iommu_type1/",
	} {
		grow(t, root, line)
	}
	f := NewFS(root)
	ask := func(what string, read func(string) (bool, error), name string, want bool) {
		t.Helper()
		if got, err := read(name); err != nil || got != want {
			t.Errorf("%s(%q) = %v, %v; want %v", what, name, got, err, want)
		}
	}
	ask("PCIDriver", f.PCIDriver, "vfio-pci", true)
	ask("PCIDriver", f.PCIDriver, "igb_uio", false)
	ask("Module", f.Module, "vfio_iommu_type1", true)
	ask("Module", f.Module, "vfio_pci", false)
	for _, tt := range []struct {
		module, name, value string
		ok                  bool
	}{
		{"vfio", "enable_unsafe_noiommu_mode", "N", true},
		{"vfio", "other", "", false},
		{"vfio_iommu_type1", "enable_unsafe_noiommu_mode", "", false},
		{"uio", "enable_unsafe_noiommu_mode", "", false},
	} {
		if value, ok, err := f.ModuleParameter(tt.module, tt.name); value != tt.value || ok != tt.ok || err != nil {
			t.Errorf("ModuleParameter(%s, %s) = %q, %v, %v; want %q, %v", tt.module, tt.name, value, ok, err, tt.value, tt.ok)
		}
	}
}

// Where sysfs cannot be read, nothing is known to be missing.
func TestDriversAndModulesUnknown(t *testing.T) {
	f := NewFS(t.TempDir()) // a folder, but nothing of sysfs in it
	unknown := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error %v, want one that says unknown", what, err)
		}
	}
	_, err := f.PCIDriver("vfio-pci")
	unknown("driver", err)
	_, err = f.Module("vfio")
	unknown("module", err)
	_, _, err = f.ModuleParameter("vfio", "x")
	unknown("parameter", err)

	root := t.TempDir()
	grow(t, root, "module/vfio/parameters = a file where a folder should be")
	_, _, err = NewFS(root).ModuleParameter("vfio", "x")
	unknown("parameter that cannot be read", err)
}

// A name never leads out of its folder.
func TestDriversAndModulesNames(t *testing.T) {
	root := t.TempDir()
	grow(t, root, "bus/pci/drivers/vfio-pci/")
	grow(t, root, "bus/pci/devices/")
	grow(t, root, "module/vfio/parameters/x = 1")
	f := NewFS(root)
	for _, name := range []string{"", ".", "..", "../devices", "vfio-pci/", "a\x00b"} {
		if _, err := f.PCIDriver(name); err == nil || !strings.Contains(err.Error(), "no name") {
			t.Errorf("PCIDriver(%q): error %v", name, err)
		}
		if _, _, err := f.ModuleParameter("vfio", name); err == nil || !strings.Contains(err.Error(), "no name") {
			t.Errorf("ModuleParameter(vfio, %q): error %v", name, err)
		}
	}
}
