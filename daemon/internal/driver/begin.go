package driver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// begin starts a change of driver after another look under the device's lock. It starts nothing, without a finding, if
// only time is needed.
func (b *Binder) begin(ctx context.Context, src inventory.Sources, d inventory.DriverChange, wanted func(device.PCIAddress) bool) ([]problem.Finding, error) {
	pci := d.Device.PCIAddress
	fn := src.Functions.Value[pci]
	if d.Userspace() {
		o, err := b.Actions.Obstacle(fn, d.To, src.Functions.Value, wanted)
		if err != nil {
			return nil, err
		}
		if o != nil {
			return []problem.Finding{problem.About(d.Device, o.Reason, "%s", o.Message)}, nil
		}
	}
	now, cancel := context.WithCancel(ctx)
	cancel() // do not wait: a change that an earlier daemon has begun may last
	lock, err := b.Locks.Lock(now, pci)
	if errors.Is(err, nodestate.ErrBusy) {
		return b.reportBusy(d.Device, src.Now), nil
	}
	delete(b.busy, pci)
	if errors.Is(err, devicelock.ErrNotOurs) {
		return nil, nil // a pod got it
	}
	if err != nil {
		return nil, err
	}
	found, err := b.prepare(ctx, d, fn)
	if err != nil || len(found) > 0 {
		lock.Close() //nolint:errcheck,gosec // nothing was written
		if errors.Is(err, devicelock.ErrNotOurs) {
			err = nil // the next Sync looks at it anew
		}
		return found, err
	}
	b.start(&job{device: d.Device, from: fn.Driver, to: d.To, begun: src.Now}, fn, lock)
	return nil, nil
}

// reportBusy reports that another process keeps the device's lock, after StuckAfter.
func (b *Binder) reportBusy(d nodestate.Device, now time.Time) []problem.Finding {
	since, known := b.busy[d.PCIAddress]
	if !known {
		since = now
		b.busy[d.PCIAddress] = now
	}
	if now.Sub(since) < StuckAfter {
		return nil
	}
	return []problem.Finding{stuck(d)}
}

// prepare looks at the device again, saves the state of its link and sets the link down before the kernel releases the
// device. After findings or an error, at most the link is down, and the restore record brings it up again.
func (b *Binder) prepare(ctx context.Context, d inventory.DriverChange, fn sysfs.PCIFunction) ([]problem.Finding, error) {
	pci := d.Device.PCIAddress
	if now, err := b.Locks.PCI.PCI(pci); err != nil || now.Driver != fn.Driver || now.Instance != fn.Instance {
		return nil, devicelock.ErrNotOurs // it has changed since this Sync read it
	}
	fresh := false
	if b.Kubelet != nil {
		kubelet, err := b.Kubelet(ctx)
		if err != nil {
			return []problem.Finding{problem.New(reason.KubeletUnreadable,
				"the kubelet's podresources socket cannot be asked, so devices keep their drivers; check --podresources-socket", err)}, nil
		}
		if len(kubelet.Allocated[pci]) > 0 {
			return []problem.Finding{problem.About(d.Device, reason.DriverNotBound,
				"%s is bound to %q, wanted %s, and the kubelet has given it to a pod; it is bound once that pod has ended", pci, fn.Driver, d.To)}, nil
		}
		fresh = kubelet.Fresh
		if name, offered := offeredAs(kubelet, pci); offered && d.Device.Phase != nodestate.PhasePending {
			return []problem.Finding{problem.About(d.Device, reason.DriverNotBound,
				"%s is bound to %q, wanted %s, and the kubelet still offers it as %s; take it out of the config of the device plugin that offers it", pci, fn.Driver,
				d.To, name)}, nil
		}
	}
	switch {
	case fn.Driver == "": // an earlier change was interrupted
		return nil, nil
	case !fn.UserspaceDriver():
		return b.takeFromKernel(d, fn)
	}
	by, open, err := b.Actions.Open(fn)
	switch {
	case err != nil:
		return useUnknown(d.Device, fn, fresh, err), nil
	case open:
		return []problem.Finding{problem.About(d.Device, reason.DeviceOpen,
			"a program has %s open (%s) though no pod of ours has the device, so it stays bound to %s; end that program", pci, by, fn.Driver)}, nil
	}
	return nil, nil
}

// offeredAs returns a resource, the first by name, from which the kubelet may give the device to a pod.
func offeredAs(k inventory.Kubelet, pci device.PCIAddress) (device.ResourceName, bool) {
	for _, name := range slices.Sorted(maps.Keys(k.Allocatable)) {
		if slices.Contains(k.Allocatable[name], pci) {
			return name, true
		}
	}
	return "", false
}

// useUnknown says why a device keeps its userspace driver after Open failed with err. If the kernel never tells,
// records and allocations decide, unless the kubelet is fresh; then it returns nothing.
func useUnknown(d nodestate.Device, fn sysfs.PCIFunction, fresh bool, err error) []problem.Finding {
	remedy := "see the daemon's log"
	switch {
	case errors.Is(err, ErrUnseen) && !fresh:
		return nil
	case errors.Is(err, ErrUnseen):
		remedy = "the kubelet has started a moment ago and may not know its pods yet, it is asked again within a minute"
	case fn.Driver == vfioPCI:
		remedy = "give the daemon the host's /dev/vfio"
	}
	return []problem.Finding{problem.About(d, reason.DeviceUseUnknown,
		"the daemon cannot see whether a program has %s open, so it stays bound to %s; %s", fn.Address, fn.Driver, remedy).With(err)}
}

// takeFromKernel prepares a device that has a link in the host.
func (b *Binder) takeFromKernel(d inventory.DriverChange, fn sysfs.PCIFunction) ([]problem.Finding, error) {
	l, found, err := b.Links.ClearForDriver(d.Device, d.Link)
	if err != nil || len(found) > 0 {
		return found, err
	}
	state := l.State()
	pci := d.Device.PCIAddress
	earlier, err := b.Attachments.LoadRestore(pci)
	if errors.Is(err, nodestate.ErrOtherVersion) {
		return nil, devicelock.ErrNotOurs
	}
	if err == nil && earlier.BootID == b.BootID && earlier.Device.Link != nil && !earlier.Device.Replaced(fn.Instance) {
		state = *earlier.Device.Link // the link has not been restored yet
	}
	err = b.Attachments.SaveRestore(nodestate.Restore{BootID: b.BootID, Driver: fn.Driver, Device: nodestate.AttachedDevice{
		PCIAddress: pci, MAC: d.Device.MAC, ENIID: d.Device.ENIID, NodeENI: d.Device.NodeENI, VF: fn.PhysFn != "", Instance: fn.Instance, Link: &state,
	}})
	if err != nil {
		return nil, err
	}
	if err = b.Links.SetDown(l.Index); errors.Is(err, link.ErrNotFound) {
		err = devicelock.ErrNotOurs
	}
	return nil, err
}
