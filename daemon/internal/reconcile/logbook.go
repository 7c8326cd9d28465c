package reconcile

import (
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// logbook logs states when they begin and when they end, never in between.
type logbook struct {
	out    logrus.FieldLogger
	known  map[nodestate.Problem]bool
	phases map[phaseKey]nodestate.Phase
	// imposing is when others last put something on ENIs' links; see imposed.
	imposing map[imposition]time.Time
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
