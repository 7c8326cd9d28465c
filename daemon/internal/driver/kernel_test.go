package driver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

const nic device.PCIAddress = "0000:00:06.0"

// kernel is a sysfs tree in a folder that answers writes as Linux does (drivers/base/bus.c,
// drivers/pci/pci-sysfs.c). It refuses all others.
type kernel struct {
	*testing.T
	root    string
	refuses map[string]syscall.Errno // drivers whose probe fails, and the errno
	matches []string                 // the drivers that take the function without an override
	files   map[string]string        // the modules that can be loaded, with the driver each registers
	writes  []string                 // writes took place, as "file=value"
	// stopAt is the number of the write at which the process is killed: before
	// it, or with after, when it has taken effect. 0 is never.
	stopAt int
	after  bool
}

// newKernel is the recorded machine with one function more, on ena, and vfio's
// mode without an IOMMU, which the machine's kernel lacks.
func newKernel(t *testing.T) *kernel {
	t.Helper()
	k := &kernel{T: t, root: sysfstree.Unpack(t, "kernel"), refuses: map[string]syscall.Errno{}, matches: []string{"ena"}, files: map[string]string{}}
	k.put("module/vfio/parameters/enable_unsafe_noiommu_mode", "N")
	k.put("bus/pci/drivers_probe", "")
	k.plug()
	return k
}

// plug adds the function, bound to ena.
func (k *kernel) plug() {
	k.Helper()
	must(k, sysfstree.Plug(k.root, sysfstree.Function{Address: nic.String(), Driver: "ena", IOMMUGroup: "7", NUMANode: -1}))
}

func (k *kernel) unplug() { k.Helper(); must(k, sysfstree.Unplug(k.root, nic.String())) }

// hide takes the function away, but keeps its folder elsewhere: unlike the
// kernel, a file system gives the number of a folder to the next one.
func (k *kernel) hide() {
	k.Helper()
	must(k, os.Rename(k.path("devices/pci0000:00/"+nic.String()), k.path("gone")))
	k.unplug()
}

func (k *kernel) removeAll(name string) { k.Helper(); must(k, os.RemoveAll(k.path(name))) }

func (k *kernel) register(driver string) { k.Helper(); k.mkdir("bus/pci/drivers/" + driver) }

func (k *kernel) attr(name string) string { return "bus/pci/devices/" + nic.String() + "/" + name }

func (k *kernel) path(name string) string { return filepath.Join(k.root, name) }

func (k *kernel) mkdir(name string) { k.Helper(); must(k, os.MkdirAll(k.path(name), 0o755)) }

func (k *kernel) put(name, value string) {
	k.Helper()
	k.mkdir(filepath.Dir(name))
	must(k, os.WriteFile(k.path(name), []byte(value+"\n"), 0o644))
}

func (k *kernel) get(name string) string {
	k.Helper()
	data, err := os.ReadFile(k.path(name))
	must(k, err)
	return strings.TrimSuffix(string(data), "\n")
}

// unlink takes one of the function's links away.
func (k *kernel) unlink(name string) { k.Helper(); must(k, os.Remove(k.path(k.attr(name)))) }

func (k *kernel) bind(driver string) {
	k.Helper()
	must(k, sysfstree.Bind(k.root, nic.String(), driver))
}

func (k *kernel) set(driver, override string) {
	k.Helper()
	k.bind(driver)
	k.put(k.attr("driver_override"), cmp.Or(override, "(null)"))
}

func (k *kernel) function() sysfs.PCIFunction {
	k.Helper()
	fn, err := sysfs.NewFS(k.root).PCI(nic)
	must(k, err)
	return fn
}

func (k *kernel) override() string {
	k.Helper()
	o, err := sysfs.NewFS(k.root).DriverOverride(nic)
	must(k, err)
	return o
}

// errKilled is how the process ends at a write.
var errKilled = errors.New("killed")

// execute carries out an order as Execute does, on this kernel.
func (k *kernel) execute(o Order) (err error) {
	k.Helper()
	defer func() {
		if r := recover(); r != nil {
			if r != errKilled { //nolint:errorlint // a value, not an error
				panic(r)
			}
			err = errKilled
		}
	}()
	return k.task(o).run()
}

func (k *kernel) task(o Order) *task {
	o.Address, o.Sysfs = nic, k.root
	return &task{Order: o, fs: sysfs.NewFS(k.root), write: k.write, load: k.load}
}

func (k *kernel) write(path, value string) error {
	name, err := filepath.Rel(k.root, path)
	must(k, err)
	if k.stopAt == len(k.writes)+1 && !k.after {
		panic(errKilled)
	}
	k.writes = append(k.writes, name+"="+value)
	err = k.serve(name, value)
	if k.stopAt == len(k.writes) && k.after {
		panic(errKilled)
	}
	return err
}

func (k *kernel) serve(name, value string) error {
	if _, err := os.Stat(k.path("bus/pci/devices/" + value)); strings.HasPrefix(name, "bus/pci/drivers") && err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: syscall.ENODEV}
	}
	refused := func(errno syscall.Errno) error { return &fs.PathError{Op: "write", Path: name, Err: errno} }
	if _, err := os.Stat(k.path(name)); err != nil && strings.HasPrefix(name, "bus/pci/devices") {
		return err
	}
	driver := filepath.Base(filepath.Dir(name))
	switch {
	case name == "bus/pci/drivers_probe":
		if k.function().Driver == "" {
			k.probe()
		}
		return nil // also after a failed probe
	case name == k.attr("driver_override"):
		k.put(name, cmp.Or(strings.TrimSuffix(value, "\n"), "(null)"))
		return nil
	case name == "module/vfio/parameters/enable_unsafe_noiommu_mode":
		k.put(name, value)
		return nil
	case filepath.Base(name) == "unbind":
		if k.function().Driver != driver {
			return refused(syscall.ENODEV)
		}
		k.bind("")
		return nil
	case filepath.Base(name) == "bind":
		if !slices.Contains(k.candidates(), driver) || k.function().Driver != "" {
			return refused(syscall.ENODEV)
		}
		if errno := k.failure(driver); errno != 0 {
			return refused(errno)
		}
		k.bind(driver)
		return nil
	}
	return fmt.Errorf("write to %s: no such attribute in this kernel", name)
}

// candidates are the registered drivers that the function is offered to.
func (k *kernel) candidates() []string {
	names := k.matches
	if override := k.override(); override != "" {
		names = []string{override}
	}
	return slices.DeleteFunc(slices.Clone(names), func(d string) bool {
		_, err := os.Stat(k.path("bus/pci/drivers/" + d))
		return err != nil
	})
}

func (k *kernel) probe() {
	for _, d := range k.candidates() {
		if k.failure(d) == 0 {
			k.bind(d)
			return
		}
	}
}

// failure is the error of the driver's probe.
func (k *kernel) failure(driver string) syscall.Errno {
	if errno := k.refuses[driver]; errno != 0 {
		return errno
	}
	if driver == vfioPCI && k.function().IOMMUGroup < 0 && k.get("module/vfio/parameters/enable_unsafe_noiommu_mode") != "Y" {
		return syscall.EINVAL
	}
	return 0
}

func (k *kernel) load(module string) error {
	registers, ok := k.files[module]
	if !ok {
		return fmt.Errorf("load module %s: %w", module, fs.ErrNotExist)
	}
	k.mkdir("module/" + moduleName(module))
	if registers != "" {
		k.register(registers)
	}
	return nil
}

// want checks where the function is, and that no override has stayed behind that
// should not.
func (k *kernel) want(driver, override string) {
	k.Helper()
	if d, o := k.function().Driver, k.override(); d != driver || o != override {
		k.Errorf("driver %q, override %q; want %q, %q (writes: %q)", d, o, driver, override, k.writes)
	}
}
