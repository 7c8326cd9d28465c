// Package devicelock takes a device's lock for the daemon, unless a pod has the device.
package devicelock

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// ErrNotOurs says that a pod has the device, or that the device or its link has changed.
var ErrNotOurs = errors.New("the device is not ours to change now")

// PCI reads PCI functions.
type PCI interface {
	PCI(addr device.PCIAddress) (sysfs.PCIFunction, error)
}

// Locker takes locks of devices.
type Locker struct {
	BootID      string
	Attachments nodestate.AttachmentDir
	PCI         PCI
}

// Lock waits for the lock until ctx ends (nodestate.ErrBusy). It returns ErrNotOurs if a pod
// of this boot has the device. Closing the file releases the lock.
func (l Locker) Lock(ctx context.Context, pci device.PCIAddress) (*os.File, error) {
	return l.LockUnless(ctx, pci, func(nodestate.Mode) bool { return true })
}

// LockFor is Lock with a bounded wait. It returns the function that releases the lock.
func (l Locker) LockFor(ctx context.Context, wait time.Duration, pci device.PCIAddress) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	lock, err := l.Lock(ctx, pci)
	if err != nil {
		return nil, err
	}
	return func() { lock.Close() }, nil //nolint:errcheck,gosec // nothing was written
}

// LockUnless is Lock, but only pods in one of the given modes stand in the way.
func (l Locker) LockUnless(ctx context.Context, pci device.PCIAddress, given func(nodestate.Mode) bool) (*os.File, error) {
	lock, err := l.Attachments.DeviceLockFile(ctx, pci)
	if err != nil {
		return nil, err
	}
	var instance uint64
	if fn, err := l.PCI.PCI(pci); err == nil {
		instance = fn.Instance
	}
	all, unread, err := l.Attachments.List()
	held := unread.MayHold(l.BootID, pci) != nil || slices.ContainsFunc(all, func(a nodestate.Attachment) bool {
		return a.Holds(l.BootID) && given(a.Mode) && a.Device.PCIAddress == pci && !a.Device.Replaced(instance)
	})
	if err == nil && held {
		err = ErrNotOurs
	}
	if err != nil {
		lock.Close() //nolint:errcheck,gosec // nothing was written
		return nil, err
	}
	return lock, nil
}
