package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// loadable puts the running kernel's module of vfio-pci below --modules-root.
func (w *world) loadable() {
	w.Helper()
	var uts unix.Utsname
	w.must(unix.Uname(&uts))
	dir := "host/lib/modules/" + unix.ByteSliceToString(uts.Release[:])
	w.write(dir+"/modules.dep", "kernel/vfio-pci.ko:\n", 0o644)
	w.write(dir+"/kernel/vfio-pci.ko", "", 0o644)
}

func (w *world) unloaded() { w.Helper(); w.must(os.RemoveAll(w.path("sys/bus/pci/drivers/vfio-pci"))) }

func (w *world) noIOMMU() {
	w.Helper()
	w.sysfs("noiommu", "")
}

func (w *world) want(drivers map[string][]string, err error) {
	w.o.Drivers = func(context.Context) (map[string][]string, error) { return drivers, err }
}

// The findings of a node where vfio-pci can be bound.
const (
	loadedLine = "ok drivers: vfio-pci is loaded, for NodeENI fast"
	iommuLine  = "ok IOMMU: there is one, and the kernel uses it"
	nodesLine  = "ok vfio nodes: /node/dev/vfio is there"
)

// driverCase is a node, and the findings about its drivers.
type driverCase struct {
	happen func(w *world)
	want   []string // how the findings begin
	says   string   // a part of one of them
}

func checkDrivers(t *testing.T, cases map[string]driverCase) {
	t.Helper()
	for name, tt := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.happen(w)
			w.says(drivers, tt.want...)
			if all := fmt.Sprint(drivers(t.Context(), w.o)); !strings.Contains(all, tt.says) {
				t.Errorf("findings do not say %q:\n%s", tt.says, all)
			}
		})
	}
}

// TestWantedDrivers: drivers are looked for that a NodeENI wants or a device has.
func TestWantedDrivers(t *testing.T) {
	checkDrivers(t, map[string]driverCase{
		"all is well": {func(*world) {}, []string{loadedLine, iommuLine, nodesLine}, ""},
		"none wanted": {func(w *world) { w.want(nil, nil); w.noIOMMU() }, []string{"ok drivers: no NodeENI of this node wants"}, ""},
		"uio wanted": {func(w *world) {
			w.want(map[string][]string{"uio_pci_generic": {"a", "b"}}, nil)
			w.noIOMMU()
			w.must(os.Mkdir(w.path("sys/bus/pci/drivers/uio_pci_generic"), 0o755))
		}, []string{"ok drivers: uio_pci_generic is loaded, for NodeENI a, b"}, ""},
		"not known, none bound": {func(w *world) { w.want(nil, errors.New("forbidden")) }, []string{"warn drivers: it is not known which are wanted: forbidden; "},
			""},
		"not known, one bound": {func(w *world) {
			w.want(nil, errors.New("forbidden"))
			w.must(nodestate.WriteCheckpoint(nodestate.CheckpointPath(w.o.StateDir), nodestate.Checkpoint{BootID: bootID, Devices: []nodestate.CheckpointDevice{
				{Device: nodestate.Device{NodeENI: "a", ENIID: "eni-0a1b2c3d4e5f60001", Driver: "vfio-pci", Phase: nodestate.PhaseDraining}},
				{Device: nodestate.Device{NodeENI: "b", ENIID: "eni-0a1b2c3d4e5f60002", Driver: "ena", Phase: nodestate.PhaseDraining}},
			}}))
		}, []string{"warn drivers: ", "ok drivers: vfio-pci is loaded, for device eni-0a1b2c3d4e5f60001", iommuLine, nodesLine}, ""},
	})
}

func TestDriverModules(t *testing.T) {
	checkDrivers(t, map[string]driverCase{
		"not loaded": {func(w *world) { w.unloaded() }, []string{"FAIL drivers: vfio-pci is not loaded, which NodeENI fast wants; run: modprobe vfio-pci",
			iommuLine, nodesLine}, "--load-modules and the host's /lib/modules"},
		"not loaded, but there": {func(w *world) { w.unloaded(); w.loadable() },
			[]string{"FAIL drivers: vfio-pci is not loaded, which NodeENI fast wants; run: modprobe vfio-pci", iommuLine, nodesLine},
			"or give multi-enid --load-modules"},
		"not loaded yet": {func(w *world) {
			w.unloaded()
			w.loadable()
			w.o.DriverPolicy.LoadModules = true
			w.must(os.Remove(w.path("dev/vfio")))
		}, []string{"ok drivers: vfio-pci is not loaded yet; multi-enid loads it from /node/host/lib/modules, for NodeENI fast", iommuLine,
			"ok vfio nodes: /node/dev/vfio is not there yet; it comes with vfio-pci"}, ""},
		"no modules to load": {func(w *world) { w.unloaded(); w.o.DriverPolicy.LoadModules = true },
			[]string{"FAIL drivers: vfio-pci is not loaded, which NodeENI fast wants, and the running kernel's modules in /node/host/lib/modules do not have it; ",
				iommuLine, nodesLine}, "mount the host's /lib/modules"},
	})
}

func TestIOMMU(t *testing.T) {
	const none = "FAIL IOMMU: there is none, or the kernel does not use it, so vfio-pci cannot be bound; "
	allow := driver.Policy{AllowUnsafeNoIOMMU: true}
	const noIOMMUMode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
	checkDrivers(t, map[string]driverCase{
		"no IOMMU": {func(w *world) { w.noIOMMU() }, []string{loadedLine, none, nodesLine}, "--allow-unsafe-noiommu"},
		"no IOMMU, nor a mode without it": {func(w *world) { w.noIOMMU(); w.o.DriverPolicy = allow },
			[]string{loadedLine, "FAIL IOMMU: there is none, and this kernel has no mode without one; ", nodesLine}, "CONFIG_VFIO_NOIOMMU"},
		"no IOMMU, vfio not loaded": {func(w *world) { w.noIOMMU(); w.unloaded(); w.o.DriverPolicy = allow },
			[]string{"FAIL drivers: ", "ok IOMMU: there is none; multi-enid switches", nodesLine}, ""},
		"no IOMMU, mode off": {func(w *world) { w.noIOMMU(); w.o.DriverPolicy = allow; w.write(noIOMMUMode, "N\n", 0o644) },
			[]string{loadedLine, "ok IOMMU: there is none; multi-enid switches vfio's mode without one on", nodesLine}, ""},
		"no IOMMU, mode on": {func(w *world) {
			w.o.DriverPolicy = allow
			w.sysfs("noiommu", "0") // vfio's own
			w.must(sysfstree.Bind(w.o.Sysfs, "0000:00:06.0", "vfio-pci"))
			w.write(noIOMMUMode, "Y\n", 0o644)
		}, []string{loadedLine, "ok IOMMU: there is none; vfio's mode without one is on", nodesLine}, ""},
		"IOMMU unknown": {func(w *world) { w.must(os.Remove(w.path("sys/bus/pci/devices/0000:00:01.0/class"))) },
			[]string{loadedLine, "warn IOMMU: it is not known", nodesLine}, ""},

		"no nodes": {func(w *world) { w.must(os.Remove(w.path("dev/vfio"))) },
			[]string{loadedLine, iommuLine, "FAIL vfio nodes: who uses a device cannot be seen"}, "/dev/vfio"},
		"other sysfs": {func(w *world) { w.must(os.RemoveAll(w.path("sys/module"))) }, []string{"warn drivers: look for vfio's no-IOMMU mode"}, "--sysfs"},
	})
}

// TestDriversWithoutFunctions: without a PCI function there is no finding about an IOMMU. The check of sysfs reports that.
func TestDriversWithoutFunctions(t *testing.T) {
	w := newWorld(t)
	w.must(os.RemoveAll(filepath.Join(w.o.Sysfs, "bus/pci/devices")))
	for _, f := range drivers(t.Context(), w.o) {
		if f.Check == "IOMMU" {
			t.Errorf("finding %v", f)
		}
	}
}
