package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// nodeDrivers changes the drivers of this node's devices, as far as the flags
// allow. It is a reconcile.Drivers.
type nodeDrivers struct {
	sys          sysfs.FS
	dev, modules string
	policy       driver.Policy
	runner       driver.Runner
}

func (c *nodeFlags) nodeDrivers() nodeDrivers {
	return nodeDrivers{
		sys: sysfs.NewFS(c.sysfs), dev: c.dev, modules: c.modulesRoot, policy: c.drivers,
		runner: driver.Runner{Program: "/proc/self/exe"}, // whatever has replaced the file meanwhile
	}
}

// Obstacle says why a function cannot be handed to a userspace driver now.
func (d nodeDrivers) Obstacle(fn sysfs.PCIFunction, to string, all map[device.PCIAddress]sysfs.PCIFunction, wanted func(device.PCIAddress) bool) (why nodestate.Reason, message string, err error) {
	facts, err := driver.ReadFacts(d.sys, d.modules)
	if err != nil {
		return "", "", err
	}
	if o := driver.Check(fn, to, all, wanted, facts, d.policy); o != nil {
		return o.Reason, o.Message, nil
	}
	return "", "", nil
}

// Open says whether a program has the function open.
func (d nodeDrivers) Open(fn sysfs.PCIFunction) (by string, open bool, err error) {
	by, open, err = driver.InUse(d.sys, d.dev, fn)
	if errors.Is(err, driver.ErrUnseen) {
		err = fmt.Errorf("%w: %w", reconcile.ErrUseUnseen, err)
	}
	return by, open, err
}

// Bind has a program of its own bind the function, which goes on when this one
// ends.
func (d nodeDrivers) Bind(fn sysfs.PCIFunction, to string, lock *os.File) error {
	return d.runner.Do(driver.Order{
		Address: fn.Address, Instance: fn.Instance, Driver: to, LoadModule: d.policy.LoadModules, UnsafeNoIOMMU: d.policy.AllowUnsafeNoIOMMU,
		Sysfs: d.sys.Root(), Modules: d.modules,
	}, lock)
}
