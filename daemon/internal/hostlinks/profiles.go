package hostlinks

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// profileEvery is how often an idle device's settings are read: no event reports changes, and some drivers ask their
// hardware.
const profileEvery = time.Minute

// readProfiles reads idle devices' settings (ethtool(8)) into their rows: ADD copies them, and DEL restores them. A
// device keeps its row's settings while it is in a pod, or still has to be restored.
func (l *Links) readProfiles(ctx context.Context, res *inventory.Result) {
	for _, t := range res.Idle {
		pci := t.Device.PCIAddress
		if t.Device.Ethtool != nil && l.now.Sub(l.profiled[pci]).Abs() < profileEvery {
			continue
		}
		settings, err := l.Host.Ethtool(t.Link.Name)
		if err == nil && (t.Device.Ethtool == nil || !maps.Equal(settings, t.Device.Ethtool)) {
			settings, err = l.readProfile(ctx, t)
		}
		if err != nil {
			continue // a pod may have got it; a later Sync reads it
		}
		l.profiled[pci] = l.now
		same := func(d *nodestate.Device) bool { return d.ENIID == t.Device.ENIID && d.PCIAddress == pci }
		if i := slices.IndexFunc(res.Devices, func(d nodestate.Device) bool { return same(&d) }); i >= 0 {
			res.Devices[i].Ethtool = settings
		}
		if i := slices.IndexFunc(res.Checkpoint, func(d nodestate.CheckpointDevice) bool { return same(&d.Device) }); i >= 0 {
			res.Checkpoint[i].Ethtool = settings
		}
	}
}

// readProfile reads a device's settings under its lock: a pod may have had the device since its link was found idle.
func (l *Links) readProfile(ctx context.Context, t inventory.IdleLink) (nodestate.Settings, error) {
	unlock, err := l.Locks.LockFor(ctx, lockWait, t.Device.PCIAddress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.restored(t.Device.PCIAddress); err != nil {
		return nil, err
	}
	return l.Host.Ethtool(t.Link.Name)
}

// restored returns an error while a device has to be restored after an earlier pod.
func (l *Links) restored(pci device.PCIAddress) error {
	_, err := l.Attachments.LoadRestore(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		return devicelock.ErrNotOurs
	}
	return err
}
