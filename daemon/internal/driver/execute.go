package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Execute carries out an order. It returns when sysfs shows the ordered driver, or with an error that names function,
// driver, the kernel's error and the remedy; fs.ErrNotExist if the function is gone. If a userspace driver cannot be
// bound, the kernel's driver gets the function back. A function that is no network device, an EFA, or a PF with VFs is
// never changed.
//
// It blocks while a program has the device open, and no signal ends that (vfio_unregister_group_dev in
// drivers/vfio/vfio_main.c). Meanwhile sysfs shows no driver although the old one still has the device
// (__device_release_driver in drivers/base/dd.c removes the link first), so readers must go by the device's lock.
func Execute(o Order) error {
	t := task{Order: o, fs: sysfs.NewFS(o.Sysfs), write: writeAttribute, load: func(module string) error {
		m, err := findModules(o.Modules)
		if err != nil {
			return err
		}
		return m.load(module)
	}}
	return t.run()
}

// task is an order at work.
type task struct {
	Order
	fs    sysfs.FS
	write func(path, value string) error // write writes a value to a file of sysfs, which must exist
	load  func(module string) error      // load loads a kernel module; fs.ErrNotExist if there is none of that name
}

func (t *task) run() error {
	if err := t.validate(); err != nil {
		return err
	}
	fn, err := t.look()
	if err != nil {
		return err
	}
	if o := untouchable(fn); o != nil {
		return errors.New(o.Message)
	}
	if !userspace(t.Driver) {
		return t.giveBack()
	}
	err = t.prepare(fn)
	if err != nil && fn.UserspaceDriver() {
		return err // nothing of it was changed
	}
	if err == nil {
		err = t.bind()
	}
	if err == nil || t.gone() {
		return err
	}
	fn, back := t.release("") // also after an interrupted order
	if back != nil {
		return fmt.Errorf("%w; and then: %w", err, back)
	}
	return fmt.Errorf("%w; %s has it", err, fn.Driver)
}

// prepare makes the machine ready for the driver. It leaves the function alone, so nothing is lost if it fails.
func (t *task) prepare(fn sysfs.PCIFunction) error {
	if fn.Driver == t.Driver {
		return nil
	}
	loaded, err := t.fs.PCIDriver(t.Driver)
	if err != nil {
		return err
	}
	if t.LoadModule {
		if err := t.loadModules(loaded); err != nil {
			return err
		}
		if loaded, err = t.fs.PCIDriver(t.Driver); err != nil {
			return err
		}
	}
	if !loaded {
		return fmt.Errorf("bind %s to %s: %[2]s is not loaded; on the node run: modprobe %[2]s", t.Address, t.Driver)
	}
	if t.Driver != vfioPCI || fn.IOMMUGroup >= 0 || !t.UnsafeNoIOMMU {
		return nil
	}
	return t.switchNoIOMMU()
}

// loadModules loads the driver's module, and for vfio-pci the one that drives the IOMMU. modprobe(8) would load that as
// vfio's soft dependency, which a kernel with iommufd lacks.
func (t *task) loadModules(loaded bool) error {
	if !loaded {
		if err := t.load(t.Driver); err != nil {
			return fmt.Errorf("bind %s to %s: %w", t.Address, t.Driver, err)
		}
	}
	const type1 = "vfio_iommu_type1"
	if t.Driver != vfioPCI {
		return nil
	}
	there, err := t.fs.Module(type1)
	if err != nil || there {
		return err
	}
	if err := t.load(type1); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bind %s to %s: %w", t.Address, t.Driver, err)
	}
	return nil
}

// switchNoIOMMU lets vfio-pci take functions without an IOMMU group, which it looks up when it probes
// (vfio_group_find_or_alloc in drivers/vfio/group.c). The switch is for the whole machine, taints the kernel, and stays
// on, or a program could not open its device again.
func (t *task) switchNoIOMMU() error {
	state, err := readNoIOMMU(t.fs)
	if err != nil || state == NoIOMMUOn {
		return err
	}
	if state == NoIOMMUAbsent {
		return fmt.Errorf("bind %s to %s: it is behind no IOMMU, and the kernel has no no-IOMMU mode; boot one with CONFIG_VFIO_NOIOMMU", t.Address, t.Driver)
	}
	if err := t.write(t.path("module", vfioModule, "parameters", noIOMMUSwitch), noIOMMUEnabled); err != nil {
		return fmt.Errorf("switch vfio's no-IOMMU mode on: %w", err)
	}
	return nil
}

// bind gives the function to the userspace driver.
func (t *task) bind() error {
	fn, err := t.look()
	if err != nil {
		return err
	}
	if err := t.override(t.Driver); err != nil {
		return err
	}
	if fn.Driver != t.Driver {
		if err := t.unbind(fn); err != nil {
			return err
		}
		if fn, err = t.probe(); err != nil {
			return err
		}
	}
	if fn.Driver == "" {
		return t.refused()
	}
	if fn.Driver != t.Driver {
		return fmt.Errorf("bind %s to %s: %s took it meanwhile; something else on this node binds drivers, stop that", t.Address, t.Driver, fn.Driver)
	}
	return nil
}

// refused asks the kernel why a driver did not take the function. drivers_probe reports no failed probe (really_probe
// in drivers/base/dd.c); the driver's own bind file does, but tries again, and may even succeed.
func (t *task) refused() error {
	cause := t.change(t.path("bus/pci/drivers", t.Driver, "bind"), t.Address.String())
	if cause == nil {
		fn, err := t.look()
		if err != nil || fn.Driver == t.Driver {
			return err
		}
		cause = errors.New("no reason given")
	}
	if t.Driver == vfioPCI && errors.Is(cause, syscall.EINVAL) {
		return fmt.Errorf("bind %s to %s: the driver refuses it: %w; most likely there is no IOMMU: boot with intel_iommu=on or amd_iommu=on where there is "+
			"one, else see --allow-unsafe-noiommu", t.Address, t.Driver, cause)
	}
	return fmt.Errorf("bind %s to %s: the driver refuses it: %w; the kernel's log says more (dmesg)", t.Address, t.Driver, cause)
}

// giveBack gives the function to the ordered kernel driver, or to any that matches.
func (t *task) giveBack() error {
	var loadErr error
	if t.LoadModule && t.Driver != "" {
		if loaded, err := t.fs.PCIDriver(t.Driver); err == nil && !loaded {
			loadErr = t.load(t.Driver) // another driver may do
		}
	}
	_, err := t.release(t.Driver)
	if err != nil && loadErr != nil {
		return fmt.Errorf("%w; %w", err, loadErr)
	}
	return err
}

// release takes the function from a userspace driver and offers it to the named kernel driver, then to all. A function
// with a kernel driver stays there; only the override is cleared.
//
// driver_override names the driver, or the first that matches would win. It must not stay, or the function would not
// get the driver of a newer kernel.
func (t *task) release(kernel string) (sysfs.PCIFunction, error) {
	fn, err := t.look()
	if err != nil {
		return fn, err
	}
	if fn.Driver == "" || fn.UserspaceDriver() {
		if fn, err = t.offer(fn, kernel); err != nil {
			return fn, err
		}
	}
	if err := t.override(""); err != nil {
		return fn, err
	}
	if fn.Driver == "" {
		if fn, err = t.probe(); err != nil {
			return fn, err
		}
	}
	if fn.Driver == "" || fn.UserspaceDriver() {
		return fn, fmt.Errorf("give %s back to the kernel: no driver that is loaded takes it (wanted %q, has %q); on the node run: modprobe $(cat %s)",
			t.Address, kernel, fn.Driver, t.folder("modalias"))
	}
	return fn, nil
}

func (t *task) offer(fn sysfs.PCIFunction, kernel string) (sysfs.PCIFunction, error) {
	if err := t.override(kernel); err != nil {
		return fn, err
	}
	if err := t.unbind(fn); err != nil {
		return fn, err
	}
	return t.probe()
}

// look reads the function anew. A function that was replaced at its address is gone.
func (t *task) look() (sysfs.PCIFunction, error) {
	fn, err := t.fs.PCI(t.Address)
	if err != nil {
		return fn, err
	}
	if t.Instance == 0 {
		t.Instance = fn.Instance
	}
	if t.Instance != fn.Instance {
		return fn, fmt.Errorf("read PCI function: another one has taken the place of %s: %w", t.Address, fs.ErrNotExist)
	}
	return fn, nil
}

// change writes a file of the function, if the function is still there.
func (t *task) change(path, value string) error {
	if _, err := t.look(); err != nil {
		return err
	}
	return t.write(path, value)
}

// gone says whether the function is gone. One missing file may have another reason.
func (t *task) gone() bool {
	_, err := t.look()
	return errors.Is(err, fs.ErrNotExist)
}

// override names the only driver that may bind the function; "" lets any. The kernel takes an empty line for no name
// (driver_override_store in drivers/pci/pci-sysfs.c), and ignores an empty write.
func (t *task) override(driver string) error {
	now, err := t.fs.DriverOverride(t.Address)
	if err != nil || now == driver {
		return err
	}
	if err := t.change(t.folder("driver_override"), driver+"\n"); err != nil {
		return fmt.Errorf("set driver_override of %s to %q: %w", t.Address, driver, err)
	}
	return nil
}

// unbind takes the function from its driver, if any. ENODEV says that this driver no longer has it (unbind_store in
// drivers/base/bus.c).
func (t *task) unbind(fn sysfs.PCIFunction) error {
	if fn.Driver == "" {
		return nil
	}
	err := t.change(t.path("bus/pci/drivers", fn.Driver, "unbind"), t.Address.String())
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("unbind %s from %s: %w", t.Address, fn.Driver, err)
	}
	return nil
}

// probe has the kernel look for a driver, and returns at the end. A function with a driver keeps it
// (bus_rescan_devices_helper in drivers/base/bus.c). ENODEV says that the function is gone, which look reports.
func (t *task) probe() (sysfs.PCIFunction, error) {
	if err := t.change(t.path("bus/pci/drivers_probe"), t.Address.String()); err != nil && !errors.Is(err, syscall.ENODEV) {
		return sysfs.PCIFunction{}, fmt.Errorf("look for a driver of %s: %w", t.Address, err)
	}
	return t.look()
}

func (t *task) path(elem ...string) string {
	return filepath.Join(append([]string{t.fs.Root()}, elem...)...)
}

func (t *task) folder(elem ...string) string {
	return t.path(append([]string{"bus/pci/devices", t.Address.String()}, elem...)...)
}

// writeAttribute writes a value in one write(2), as sysfs wants it.
func writeAttribute(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
