package reconcile

import (
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// finding is a problem, and for the log the error behind it. The error's text
// may be another each time (ports, durations), so it is no part of the state.
type finding struct {
	nodestate.Problem
	err error
}

// logbook logs states when they begin and when they end, never in between.
type logbook struct {
	out    logrus.FieldLogger
	known  map[nodestate.Problem]bool
	phases map[phaseKey]nodestate.Phase
	failed bool
}

// phaseKey tells rows apart, those without a known ENI too.
type phaseKey struct {
	nodeENI string
	eni     device.ENIID
	subnet  device.SubnetID
	index   int
}

func keyOf(d nodestate.Device) phaseKey {
	if d.ENIID != "" {
		return phaseKey{eni: d.ENIID}
	}
	return phaseKey{nodeENI: d.NodeENI, subnet: d.SubnetID, index: d.DeviceIndex}
}

func phasesOf(devices []nodestate.CheckpointDevice) map[phaseKey]nodestate.Phase {
	m := make(map[phaseKey]nodestate.Phase, len(devices))
	for _, d := range devices {
		m[keyOf(d.Device)] = d.Phase
	}
	return m
}

// findings logs which problems have appeared and which are over.
func (l *logbook) findings(found []finding) {
	now := make(map[nodestate.Problem]bool, len(found))
	for _, f := range found {
		if now[f.Problem] {
			continue
		}
		now[f.Problem] = true
		if l.known[f.Problem] {
			continue
		}
		entry := l.problem(f.Problem)
		if f.err != nil {
			entry = entry.WithError(f.err)
		}
		entry.Warn("problem found")
	}
	for p := range l.known {
		if !now[p] {
			l.problem(p).Info("problem is over")
		}
	}
	l.known = now
}

func (l *logbook) problem(p nodestate.Problem) *logrus.Entry {
	fields := logrus.Fields{"reason": p.Reason, "detail": p.Message}
	if p.NodeENI != "" {
		fields["nodeENI"] = p.NodeENI
	}
	if p.Device != "" {
		fields["device"] = p.Device
	}
	return l.out.WithFields(fields)
}

// devices logs which rows have changed their phase, come or gone.
func (l *logbook) devices(devices []nodestate.Device) {
	now := make(map[phaseKey]nodestate.Phase, len(devices))
	for _, d := range devices {
		key := keyOf(d)
		now[key] = d.Phase
		was, known := l.phases[key]
		if was == d.Phase {
			continue
		}
		entry := l.out.WithFields(logrus.Fields{
			"eniID": d.ENIID, "nodeENI": d.NodeENI, "pciAddress": d.PCIAddress, "interface": d.InterfaceName, "phase": d.Phase,
		})
		if known {
			entry = entry.WithField("was", was)
		}
		entry.Info("device changed its phase")
	}
	for key, was := range l.phases {
		if _, there := now[key]; !there && key.eni != "" {
			l.out.WithFields(logrus.Fields{"eniID": key.eni, "was": was}).Info("device left the inventory")
		}
	}
	l.phases = now
}

// restartFailed logs the first of several failures, and their end.
func (l *logbook) restartFailed(err error) {
	switch {
	case err != nil && !l.failed:
		l.out.WithError(err).Warn("device plugin restart failed, trying again")
	case err == nil && l.failed:
		l.out.Info("device plugin restart works again")
	}
	l.failed = err != nil
}
