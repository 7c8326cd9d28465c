package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

var (
	toVFIO = Order{Driver: vfioPCI}
	toENA  = Order{Driver: "ena"}
)

// The order of the writes is the contract with the kernel.
func TestExecuteWrites(t *testing.T) {
	k := newKernel(t)
	must(k, k.execute(toVFIO))
	k.want(vfioPCI, vfioPCI)
	must(k, k.execute(toENA))
	k.want("ena", "")
	device := "bus/pci/devices/0000:00:06.0/"
	want := []string{
		device + "driver_override=vfio-pci\n",
		"bus/pci/drivers/ena/unbind=0000:00:06.0",
		"bus/pci/drivers_probe=0000:00:06.0",
		device + "driver_override=ena\n",
		"bus/pci/drivers/vfio-pci/unbind=0000:00:06.0",
		"bus/pci/drivers_probe=0000:00:06.0",
		device + "driver_override=\n",
	}
	same(t, "writes", want, k.writes)
	k.writes = nil
	must(k, k.execute(toENA))
	must(k, k.execute(Order{}))
	if len(k.writes) != 0 {
		t.Errorf("an order that was carried out already wrote %q", k.writes)
	}
}

// Killed before or after any write, in either direction and while it repairs a failure, an order leaves the next one to
// the same end.
func TestExecuteAfterAKill(t *testing.T) {
	ways := map[string]struct {
		prepare func(k *kernel)
		first   Order
	}{
		"bind":              {func(*kernel) {}, toVFIO},
		"give back":         {func(k *kernel) { k.set(vfioPCI, vfioPCI) }, toENA},
		"give back to any":  {func(k *kernel) { k.set(vfioPCI, vfioPCI) }, Order{}},
		"bind that fails":   {func(k *kernel) { k.refuses[vfioPCI] = syscall.EIO }, toVFIO},
		"from uio to vfio":  {func(k *kernel) { k.register("uio_pci_generic"); k.set("uio_pci_generic", "uio_pci_generic") }, toVFIO},
		"ena refuses it":    {func(k *kernel) { k.set(vfioPCI, vfioPCI); k.register("efv"); k.matches = []string{"efv"} }, Order{Driver: "old"}},
		"without any IOMMU": {func(k *kernel) { k.unlink("iommu_group") }, Order{Driver: vfioPCI, UnsafeNoIOMMU: true}},
	}
	seconds := map[string]struct {
		order            Order
		driver, override string
	}{
		"then bind":      {Order{Driver: vfioPCI, UnsafeNoIOMMU: true}, vfioPCI, vfioPCI},
		"then give back": {toENA, "ena", ""},
	}
	for name, way := range ways {
		total := func() int {
			k := newKernel(t)
			way.prepare(k)
			_ = k.execute(way.first) // only counted
			return len(k.writes)
		}()
		if total < 3 {
			t.Fatalf("%s: %d writes", name, total)
		}
		for stop := 1; stop <= total; stop++ {
			for _, after := range []bool{false, true} {
				for then, second := range seconds {
					t.Run(fmt.Sprintf("%s, write %d, after %v, %s", name, stop, after, then), func(t *testing.T) {
						k := newKernel(t)
						way.prepare(k)
						k.stopAt, k.after = stop, after
						if err := k.execute(way.first); !errors.Is(err, errKilled) {
							t.Fatalf("error %v", err)
						}
						k.stopAt = 0
						k.refuses = map[string]syscall.Errno{}
						k.matches = []string{"ena"}
						fallback := k.function().Driver == "efv"
						must(k, k.execute(second.order))
						if fallback && second.driver == "ena" {
							second.driver = "efv" // a kernel driver has it: it is left there
						}
						k.want(second.driver, second.override)
					})
				}
			}
		}
	}
}

// A bind that fails leaves the function with the kernel's driver. The error names driver, file, cause and remedy.
func TestExecuteFails(t *testing.T) {
	tests := map[string]struct {
		prepare func(k *kernel)
		order   Order
		driver  string
		want    []string
	}{
		"driver not loaded": {func(*kernel) {}, Order{Driver: "igb_uio"}, "ena",
			[]string{"0000:00:06.0", "igb_uio", "not loaded", "modprobe igb_uio", "ena has it"}},
		"no module": {func(*kernel) {}, Order{Driver: "igb_uio", LoadModule: true}, "ena",
			[]string{"0000:00:06.0", "igb_uio", "does not exist"}},
		"no IOMMU": {func(k *kernel) { k.unlink("iommu_group") }, toVFIO, "ena",
			[]string{"0000:00:06.0", "vfio-pci", "invalid argument", "intel_iommu=on", "--allow-unsafe-noiommu", "ena has it"}},
		"no IOMMU, and no such mode": {func(k *kernel) {
			k.unlink("iommu_group")
			k.removeAll("module/vfio/parameters")
		}, Order{Driver: vfioPCI, UnsafeNoIOMMU: true}, "ena", []string{"CONFIG_VFIO_NOIOMMU", "ena has it"}},
		"probe fails": {func(k *kernel) { k.refuses[vfioPCI] = syscall.ENOMEM }, toVFIO, "ena",
			[]string{"vfio-pci", "cannot allocate memory", "dmesg", "ena has it"}},
		"what a kill has left, and then the driver is gone": {func(k *kernel) {
			k.set("", vfioPCI)
			k.removeAll("bus/pci/drivers/vfio-pci")
		}, toVFIO, "ena", []string{"not loaded", "ena has it"}},
		"nobody takes it": {func(k *kernel) { k.refuses[vfioPCI] = syscall.EIO; k.matches = nil }, toVFIO, "",
			[]string{"vfio-pci", "input/output error", "give 0000:00:06.0 back", "modalias"}},
		"nobody takes it back": {func(k *kernel) { k.set(vfioPCI, vfioPCI); k.matches = nil }, Order{Driver: "gone"}, "",
			[]string{`wanted "gone"`, "modprobe $(cat"}},
		"other userspace driver, and this one missing": {func(k *kernel) {
			k.register("uio_pci_generic")
			k.set("uio_pci_generic", "")
		}, Order{Driver: "igb_uio"}, "uio_pci_generic", []string{"igb_uio is not loaded", "modprobe"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			tt.prepare(k)
			err := k.execute(tt.order)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tt.want {
				if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(w)) {
					t.Errorf("error lacks %q: %v", w, err)
				}
			}
			k.want(tt.driver, "")
		})
	}
}

func TestExecuteRefuses(t *testing.T) {
	tests := map[string]struct {
		prepare func(k *kernel)
		want    string
	}{
		"EFA by device":  {func(k *kernel) { k.put(k.attr("device"), "0xefa1") }, "Elastic Fabric Adapter"},
		"EFA by driver":  {func(k *kernel) { k.set("efa", "") }, "Elastic Fabric Adapter"},
		"disk":           {func(k *kernel) { k.put(k.attr("class"), "0x010802") }, "class 0x010802"},
		"PF with VFs":    {func(k *kernel) { must(k, sysfstree.Grow(k.root, k.attr("virtfn0")+" -> ../0000:00:10.0")) }, "sriov_numvfs"},
		"unknown driver": {func(k *kernel) { k.unplug() }, "file does not exist"},
	}
	for name, tt := range tests {
		for _, o := range []Order{toVFIO, toENA, {}} {
			t.Run(name+" to "+o.Driver, func(t *testing.T) {
				k := newKernel(t)
				tt.prepare(k)
				if err := k.execute(o); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want %q", err, tt.want)
				}
				if len(k.writes) != 0 {
					t.Errorf("wrote %q", k.writes)
				}
			})
		}
	}
}

// A function that goes away at any write is gone, not failed; its successor is not touched.
func TestExecuteUnplugged(t *testing.T) {
	for _, o := range []Order{toVFIO, toENA} {
		for stop := 1; stop <= 3; stop++ {
			for _, again := range []bool{false, true} {
				t.Run(fmt.Sprintf("to %s, write %d, another %v", o.Driver, stop, again), func(t *testing.T) {
					k := newKernel(t)
					if o.Driver == "ena" {
						k.set(vfioPCI, vfioPCI)
					}
					task := k.task(o)
					task.write = func(path, value string) error {
						if len(k.writes)+1 == stop {
							k.hide()
							if again {
								k.plug()
							}
						}
						return k.write(path, value)
					}
					if err := task.run(); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("error %v, want one that says gone", err)
					}
					if again && len(k.writes) > stop {
						t.Errorf("went on with another function: %q", k.writes)
					}
				})
			}
		}
	}
}

func TestExecuteLoadsModules(t *testing.T) {
	k := newKernel(t)
	k.removeAll("bus/pci/drivers/vfio-pci")
	k.removeAll("module/vfio_iommu_type1")
	k.files = map[string]string{vfioPCI: vfioPCI}
	must(k, k.execute(Order{Driver: vfioPCI, LoadModule: true})) // a kernel without vfio_iommu_type1
	k.want(vfioPCI, vfioPCI)
	must(k, k.execute(toENA))
	k.files["vfio_iommu_type1"] = ""
	must(k, k.execute(Order{Driver: vfioPCI, LoadModule: true}))
	if there, err := k.task(toENA).fs.Module("vfio_iommu_type1"); err != nil || !there {
		t.Errorf("vfio_iommu_type1 loaded: %v, %v", there, err)
	}
	k.removeAll("bus/pci/drivers/ena")
	k.files["ena"] = "ena"
	must(k, k.execute(Order{Driver: "ena", LoadModule: true}))
	k.want("ena", "")
}

func TestExecuteNoIOMMU(t *testing.T) {
	const file = "module/vfio/parameters/enable_unsafe_noiommu_mode"
	k := newKernel(t)
	must(k, k.execute(Order{Driver: vfioPCI, UnsafeNoIOMMU: true}))
	if got := k.get(file); got != "N" {
		t.Errorf("with an IOMMU the switch is %q", got)
	}
	must(k, k.execute(toENA))
	k.unlink("iommu_group")
	if err := k.execute(toVFIO); err == nil || k.get(file) != "N" {
		t.Errorf("without leave: error %v, switch %q", err, k.get(file))
	}
	must(k, k.execute(Order{Driver: vfioPCI, UnsafeNoIOMMU: true}))
	k.want(vfioPCI, vfioPCI)
	if got := k.get(file); got != "Y" {
		t.Errorf("the switch is %q", got)
	}
}

func TestExecuteGivesBackToAnother(t *testing.T) {
	k := newKernel(t)
	k.set(vfioPCI, vfioPCI)
	must(k, k.execute(Order{Driver: "ena-old"}))
	k.want("ena", "")
}

func TestExecuteAnotherInstance(t *testing.T) {
	k := newKernel(t)
	o := toVFIO
	o.Instance = k.function().Instance
	k.hide()
	k.plug()
	if err := k.execute(o); !errors.Is(err, fs.ErrNotExist) || len(k.writes) > 0 {
		t.Errorf("error %v, writes %q", err, k.writes)
	}
	o.Instance = k.function().Instance
	must(k, k.execute(o))
	k.want(vfioPCI, vfioPCI)
}

func TestExecuteFiles(t *testing.T) {
	k := newKernel(t)
	k.set("ena", "ena") // killed before the last write
	must(t, Execute(Order{Address: nic, Driver: "ena", Sysfs: k.root}))
	if got := k.get(k.attr("driver_override")); got != "\nna" { // a plain file keeps the rest of "ena"
		t.Errorf("driver_override is %q", got)
	}
	k.set("ena", "")
	k.removeAll("bus/pci/drivers_probe")
	k.set("", "")
	err := Execute(Order{Address: nic, Driver: "ena", Sysfs: k.root})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "drivers_probe") {
		t.Errorf("a file that is not there: error %v", err)
	}
	if err := Execute(Order{Address: "06.0", Sysfs: k.root}); err == nil || !strings.Contains(err.Error(), "address") {
		t.Errorf("an order that is not valid: error %v", err)
	}
}

// A driver that refuses once may take the function when it is asked why.
func TestExecuteSecondTry(t *testing.T) {
	k := newKernel(t)
	k.refuses[vfioPCI] = syscall.EAGAIN
	task := k.task(toVFIO)
	task.write = func(path, value string) error {
		if strings.HasSuffix(path, "/bind") {
			delete(k.refuses, vfioPCI)
		}
		return k.write(path, value)
	}
	must(k, task.run())
	k.want(vfioPCI, vfioPCI)
}

func TestExecuteRivals(t *testing.T) {
	k := newKernel(t)
	task := k.task(toVFIO)
	task.write = func(path, value string) error {
		if strings.HasSuffix(path, "drivers_probe") && k.function().Driver == "" {
			k.set("ena", "vfio-pci")
		}
		return k.write(path, value)
	}
	if err := task.run(); err == nil || !strings.Contains(err.Error(), "ena took it meanwhile") {
		t.Errorf("error %v", err)
	}
	k.want("ena", "")
}
