package reconcile

import (
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// logbook logs states when they begin and when they end, never in between.
type logbook struct {
	out    logrus.FieldLogger
	known  map[nodestate.Problem]bool
	phases map[phaseKey]nodestate.Phase
	// failed: the last restart of the device plugin has; missing: there is none;
	// unseen: it cannot be looked for.
	failed, missing, unseen bool
	// imposing is when others last put something on ENIs' links; see imposed.
	imposing map[imposition]time.Time
	// said is the hash of the config that was last said to be served.
	said string
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

// findings logs which problems have appeared and which are over, and returns
// both, sorted.
func (l *logbook) findings(found []problem.Finding) (began, over []nodestate.Problem) {
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
		if f.Err != nil {
			entry = entry.WithError(f.Err)
		}
		entry.Warn("problem found")
		began = append(began, f.Problem)
	}
	for p := range l.known {
		if !now[p] {
			l.problem(p).Info("problem is over")
			over = append(over, p)
		}
	}
	l.known = now
	return inventory.SortProblems(began), inventory.SortProblems(over)
}

func (l *logbook) problem(p nodestate.Problem) *logrus.Entry {
	fields := logrus.Fields{"reason": string(p.Reason), "detail": p.Message}
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

// restartFailed logs the first of several failures.
func (l *logbook) restartFailed(err error) {
	if !l.failed {
		l.out.WithError(err).Warn("device plugin restart failed, trying again")
	}
	l.failed = true
}

// served logs that the device plugin serves a config that it did not serve
// before, or was restarted, which also ends a row of failures.
func (l *logbook) served(report pluginrestart.PluginReport, hash string) {
	news := hash != l.said || l.failed || len(report.Deleted) > 0
	if l.said, l.failed = hash, false; !news {
		return
	}
	fields := logrus.Fields{"pods": report.Pods, "config": hash}
	if len(report.Deleted) > 0 {
		fields["deleted"] = report.Deleted
	}
	l.out.WithFields(fields).Info("device plugin serves its config")
}

// pluginMissing logs when the device plugin is found to be missing, and when it
// is there again.
func (l *logbook) pluginMissing(missing bool) {
	switch {
	case missing && !l.missing:
		l.out.Info("no device plugin on this node; one that comes reads the config as it is")
	case !missing && l.missing:
		l.out.Info("device plugin found")
	}
	l.missing = missing
}

// lookFailed logs when the device plugin can no longer be looked for, and when it
// can be again.
func (l *logbook) lookFailed(failed bool, err error) {
	switch {
	case failed && !l.unseen:
		l.out.WithError(err).Warn("device plugin cannot be looked for, trying again")
	case !failed && l.unseen:
		l.out.Info("device plugin can be looked for again")
	}
	l.unseen = failed
}
