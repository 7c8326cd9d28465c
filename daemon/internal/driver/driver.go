// Package driver gives PCI network functions to userspace drivers and back to the kernel.
//
// Binder begins a change that package inventory wants, under the device's lock, once Check and InUse find no obstacle.
// Runner starts a process for it, an Order, which Serve and Execute carry out. A write to sysfs hangs while a program
// has the device open, and no signal ends it. The process inherits the lock, so the device stays locked until the write
// is done, even if the daemon has ended.
//
// Only sysfs keeps state: after an interrupted order, another one, in either direction, completes the change.
package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Order is a change of one PCI function.
type Order struct {
	Address device.PCIAddress `json:"address"`
	// Instance identifies the function (sysfs.PCIFunction.Instance), which another may have replaced at its address. 0
	// means any.
	Instance uint64 `json:"instance"`
	// Driver is the userspace driver to bind, or the kernel driver to return the function to; "" for any matching
	// kernel driver.
	Driver        string `json:"driver"`
	LoadModule    bool   `json:"loadModule"`    // LoadModule loads the driver's module first, should it be missing
	UnsafeNoIOMMU bool   `json:"unsafeNoIOMMU"` // UnsafeNoIOMMU switches vfio's no-IOMMU mode on where vfio-pci needs it
	Sysfs         string `json:"sysfs"`         // where sysfs is mounted; "" means sysfs.DefaultRoot
	Modules       string `json:"modules"`       // the folder that has the host's lib/modules; "" means "/"
}

// The userspace drivers (sysfs.PCIFunction.UserspaceDriver).
const vfioPCI = "vfio-pci"

// userspaceDrivers are known to Check and Execute.
func userspaceDrivers() []string { return []string{vfioPCI, "uio_pci_generic", "igb_uio"} }

func userspace(driver string) bool { return sysfs.PCIFunction{Driver: driver}.UserspaceDriver() }

// maxOrder bounds an Order as JSON, in bytes.
const maxOrder = 16 << 10

// DecodeOrder reads exactly one order, and validates it.
func DecodeOrder(r io.Reader) (Order, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxOrder+1))
	if err != nil {
		return Order{}, fmt.Errorf("read order: %w", err)
	}
	if len(data) > maxOrder {
		return Order{}, fmt.Errorf("read order: more than %d bytes", maxOrder)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var o Order
	if err := dec.Decode(&o); err != nil {
		return Order{}, fmt.Errorf("parse order: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Order{}, errors.New("parse order: something follows the order")
	}
	if err := o.validate(); err != nil {
		return Order{}, err
	}
	return o, nil
}

func (o Order) validate() error {
	if addr, err := device.ParsePCIAddress(o.Address.String()); err != nil || addr != o.Address {
		return fmt.Errorf("order's address %q: want a PCI address such as 0000:00:07.0", o.Address)
	}
	if o.Driver != "" && !driverName(o.Driver) {
		return fmt.Errorf("order's driver %q: want a driver's name, of lower-case letters, digits, '-' and '_'", o.Driver)
	}
	for _, p := range []struct{ name, path string }{{"sysfs", o.Sysfs}, {"modules", o.Modules}} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return fmt.Errorf("order's %s %q: want an absolute path", p.name, p.path)
		}
	}
	return nil
}

// driverName says whether s, which becomes part of paths, may be a network driver's name. The kernel's have at most 31
// characters.
func driverName(s string) bool {
	if s == "" || len(s) > 31 {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// classNetwork is the base class of network controllers, the upper 8 of the 24 bits of a class code.
const classNetwork = 0x02

// untouchable says why the driver of a function is never changed; nil if it may be changed.
func untouchable(fn sysfs.PCIFunction) *Obstacle {
	switch {
	case fn.IsEFA():
		return &Obstacle{reason.NotBindable, fmt.Sprintf("%s is an Elastic Fabric Adapter, whose driver is never changed", fn.Address)}
	case fn.Class>>16 != classNetwork:
		return &Obstacle{reason.NotBindable, fmt.Sprintf("%s is no network device (class 0x%06x), so its driver is never changed", fn.Address, fn.Class)}
	case len(fn.VirtFns) > 0:
		// A PF's driver disables its VFs when it is unbound (igb_remove in
		// drivers/net/ethernet/intel/igb/igb_main.c and its like).
		return &Obstacle{reason.PFInUse, fmt.Sprintf("%s has SR-IOV VFs, which a change of its driver would take away; free them and write 0 to its "+
			"sriov_numvfs first", fn.Address)}
	}
	return nil
}
