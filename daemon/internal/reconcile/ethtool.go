package reconcile

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// profileEvery is how often an idle device's settings are read again: nothing tells
// when an administrator changes them, and some drivers ask their hardware.
const profileEvery = time.Minute

// readProfiles reads the device settings (ethtool(8)) of idle devices into their
// rows. A pod's DEL gives them back, and ADD only copies them. A device that is in a
// pod keeps the row's, and so does one that still owes something of an earlier pod.
func (r *Reconciler) readProfiles(ctx context.Context, res *inventory.Result) {
	for _, l := range res.Idle {
		now := r.steady()
		if l.Device.Ethtool != nil && now.Sub(r.profiled[l.Device.PCIAddress]).Abs() < profileEvery {
			continue
		}
		settings, err := r.Host.Ethtool(l.Link.Name)
		if err == nil && (l.Device.Ethtool == nil || !maps.Equal(settings, l.Device.Ethtool)) {
			settings, err = r.profile(ctx, l)
		}
		if err != nil {
			continue // a pod has just got it; else it is read by a later Sync
		}
		r.profiled[l.Device.PCIAddress] = now
		if i := slices.IndexFunc(res.Devices, func(d nodestate.Device) bool { return d.ENIID == l.Device.ENIID && d.PCIAddress == l.Device.PCIAddress }); i >= 0 {
			res.Devices[i].Ethtool = settings
		}
		if i := slices.IndexFunc(res.Checkpoint, func(d nodestate.CheckpointDevice) bool {
			return d.ENIID == l.Device.ENIID && d.PCIAddress == l.Device.PCIAddress
		}); i >= 0 {
			res.Checkpoint[i].Ethtool = settings
		}
	}
}

// profile reads a device's settings once more under its claim lock: a pod may have
// had the device since its link was found idle.
func (r *Reconciler) profile(ctx context.Context, l inventory.IdleLink) (nodestate.Settings, error) {
	unlock, err := r.claim(ctx, l.Device.PCIAddress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.clean(l.Device.PCIAddress); err != nil {
		return nil, err
	}
	return r.Host.Ethtool(l.Link.Name)
}

// clean is an error where a device still owes something of an earlier pod.
func (r *Reconciler) clean(pci device.PCIAddress) error {
	_, err := r.Attachments.LoadRestore(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		return errNotOurs
	}
	return err
}
