package reconcile

import (
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// lateLimit is how long a restart of the device plugin waits, after the first Sync
// of a boot, for devices that were advertised in the boot before and are not ready
// yet. Links and drivers come one after the other then, and each would cost a
// restart. The device plugin starts by itself meanwhile and offers the devices that are there.
const lateLimit = 2 * time.Minute

// noteLate notes which devices a restart is to wait for.
func (r *Reconciler) noteLate(now time.Time, devices []nodestate.Device) {
	m := &r.keeper.memory
	if r.checkpoint.BootID != r.BootID {
		m.Late, m.LateUntil = nil, now.Add(lateLimit)
		for _, d := range r.checkpoint.Devices {
			if d.ENIID != "" && d.ResourceName != "" && (d.Advertised || d.Phase == nodestate.PhaseReady) {
				m.Late = append(m.Late, d.ENIID)
			}
		}
	}
	if latest := now.Add(lateLimit); m.LateUntil.After(latest) { // the clock was set back
		m.LateUntil = latest
	}
	late := slices.DeleteFunc(slices.Clone(m.Late), func(id device.ENIID) bool {
		return !now.Before(m.LateUntil) || !slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.ENIID == id && d.Phase == nodestate.PhasePending })
	})
	if m.Late = late; len(late) == 0 {
		m.Late, m.LateUntil = nil, time.Time{}
	}
}

// due is the gate's, but waits for devices that are late after a reboot.
func (k *keeper) due(now time.Time) (bool, time.Duration) {
	due, wait := k.gate.due(now)
	if due && len(k.memory.Late) > 0 {
		if wait := k.memory.LateUntil.Sub(now); wait > 0 {
			return false, wait
		}
	}
	return due, wait
}
