package giveback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/presence"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

// LockWait bounds the wait for another process that holds the lock of a device.
const LockWait = 20 * time.Second

// DeviceLock says whether the caller holds the lock of the device.
type DeviceLock bool

// Values of DeviceLock.
const (
	LockHeld DeviceLock = true
	LockFree DeviceLock = false
)

// Devices returns the links of devices to the host. All fields are needed.
type Devices struct {
	*presence.Prober
	Records nodestate.AttachmentDir
	Steps   *steps.Steps
	Log     *logrus.Entry
}

func (d *Devices) lock(ctx context.Context, pci device.PCIAddress, have DeviceLock) (unlock func(), err error) {
	if have == LockHeld {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, LockWait)
	defer cancel()
	return d.Records.LockDevice(ctx, pci)
}

// giveBack moves an attachment's link to the host, where the device is free, and restores its
// settings. A device that is gone needs nothing. A restore record remains for settings that
// cannot be restored now, and for a link that a dying netns does not return within returnWait.
func (d *Devices) giveBack(ctx context.Context, a nodestate.Attachment, have DeviceLock) error {
	unlock, err := d.lock(ctx, a.Device.PCIAddress, have)
	if err != nil {
		return err
	}
	defer unlock()
	owing := d.owing(a)
	l, err := d.moveBack(a)
	if errors.Is(err, link.ErrNotFound) {
		if d.Replaced(a) {
			return nil // the device is gone with its link
		}
		l, err = d.awaitLink(ctx, a)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // the PCI function is gone with its link
	case errors.Is(err, link.ErrNotFound), errors.Is(err, link.ErrOtherDevice):
		return d.leaveRestore(owing)
	case err != nil:
		return err
	}
	if err := d.Host.GiveBack(d.Sys, l, owing.Device); err != nil {
		d.Log.WithFields(map[string]any{"interface": l.Name, "wanted": owing.Device.Link.Name, "device": owing.Device.PCIAddress}).WithError(err).
			Warn("the device is back, but could not be given all that it had; that is tried again")
		return d.leaveRestore(owing)
	}
	return d.Records.Returned(owing.Device.PCIAddress)
}

// owing returns the settings to restore. They include the PF's settings for a VF: sriov's
// DEL does not restore these without a netns, or after an ADD that did not finish.
func (d *Devices) owing(a nodestate.Attachment) nodestate.Restore {
	r := nodestate.Restore{BootID: a.BootID, Device: a.Device}
	if a.BootID != d.BootID {
		r.Device.Assigned = nil // a boot creates VFs anew
	}
	return r
}

// leaveRestore saves a restore record, unless there is one with more: of this boot, for a device
// that the daemon has since unbound from its kernel driver.
func (d *Devices) leaveRestore(owing nodestate.Restore) error {
	r, err := d.Records.LoadRestore(owing.Device.PCIAddress)
	if err == nil && r.BootID == owing.BootID && r.Driver != "" && !r.Device.Replaced(owing.Device.Instance) {
		return nil
	}
	if errors.Is(err, nodestate.ErrOtherVersion) { // no pod gets the device while that file exists
		d.Log.WithError(err).Warn("leaving the restore record of the device as it is")
		return nil
	}
	return d.Records.SaveRestore(owing)
}

// ReturnUnrecorded returns the device of an attachment without a record. It leaves a device whose
// link is in the host, since then the pod's link only has the same MAC, a device of another
// record, and a netns of another container's record, since netns paths are reused.
func (d *Devices) ReturnUnrecorded(ctx context.Context, a nodestate.Attachment) error {
	unlock, err := d.lock(ctx, a.Device.PCIAddress, LockFree)
	if err != nil {
		return err
	}
	defer unlock()
	switch _, err := d.FindDevice(a.Device); {
	case errors.Is(err, link.ErrNotFound):
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, link.ErrOtherDevice):
		return nil
	default:
		return err
	}
	records, bad, err := d.Records.List()
	if err != nil {
		return err
	}
	for _, o := range records {
		if o.AttachmentID != a.AttachmentID && o.Holds(d.BootID) &&
			(o.Device.PCIAddress == a.Device.PCIAddress || o.ContainerID != a.ContainerID && o.Netns.Same(a.Netns)) {
			d.Log.WithField("device", a.Device.PCIAddress).Warnf("leaving the device to %s", presence.Describe(o))
			return nil
		}
	}
	if err := d.Records.OfOthers(bad, a.AttachmentID); err != nil {
		return fmt.Errorf("bring device %s back without its record: a record that cannot be read may be its owner's: %w", a.Device.PCIAddress, err)
	}
	d.Log.WithField("device", a.Device.PCIAddress).Warn("bringing the device back without its record")
	return d.giveBack(ctx, a, LockHeld)
}

// passedOn reports whether another attachment may have a released one's device. Hold the device
// lock.
func (d *Devices) passedOn(released nodestate.Attachment) (bool, error) {
	records, unread, err := d.Records.List()
	return unread.MayHold(d.BootID, released.Device.PCIAddress) != nil || slices.ContainsFunc(records, func(a nodestate.Attachment) bool {
		return a.Device.PCIAddress == released.Device.PCIAddress && a.AttachmentID != released.AttachmentID && a.State != nodestate.StateReleased
	}), err
}
