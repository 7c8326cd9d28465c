package pluginrestart

import (
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// rebootWait bounds how long a restart waits after a reboot for devices that were
// advertised before it and are not ready yet. Links and drivers come up one after the
// other, and each would cost a restart.
const rebootWait = 2 * time.Minute

// AwaitDevices notes the devices that a restart waits for. before is the checkpoint, of
// another boot if rebooted. now is the clock of Step.
func (r *Restarter) AwaitDevices(now time.Time, rebooted bool, before []nodestate.CheckpointDevice, devices []nodestate.Device) {
	m := &r.memory
	if rebooted {
		m.Late, m.LateUntil = nil, now.Add(rebootWait)
		for _, d := range before {
			if d.ENIID != "" && d.ResourceName != "" && (d.Advertised || d.Phase == nodestate.PhaseReady) {
				m.Late = append(m.Late, d.ENIID)
			}
		}
	}
	if latest := now.Add(rebootWait); m.LateUntil.After(latest) { // the clock was set back
		m.LateUntil = latest
	}
	awaited := slices.DeleteFunc(slices.Clone(m.Late), func(id device.ENIID) bool {
		return !now.Before(m.LateUntil) || !slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.ENIID == id && d.Phase == nodestate.PhasePending })
	})
	if m.Late = awaited; len(awaited) == 0 {
		m.Late, m.LateUntil = nil, time.Time{}
	}
}

// due is the schedule's answer, delayed for the devices of AwaitDevices.
func (r *Restarter) due(now time.Time) (bool, time.Duration) {
	due, wait := r.schedule.due(now)
	if due && len(r.memory.Late) > 0 {
		if wait := r.memory.LateUntil.Sub(now); wait > 0 {
			return false, wait
		}
	}
	return due, wait
}
