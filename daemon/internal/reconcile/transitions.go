package reconcile

import (
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// transitions logs problems and phases when they begin and when they end.
type transitions struct {
	out    logrus.FieldLogger
	known  map[nodestate.Problem]bool
	phases map[phaseKey]nodestate.Phase
}

// phaseKey identifies a row, also one without a known ENI.
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

// findings logs the problems that have begun and ended, and returns both, sorted.
func (t *transitions) findings(found []problem.Finding) (began, over []nodestate.Problem) {
	now := make(map[nodestate.Problem]bool, len(found))
	for _, f := range found {
		if now[f.Problem] {
			continue
		}
		now[f.Problem] = true
		if t.known[f.Problem] {
			continue
		}
		entry := t.problem(f.Problem)
		if f.Err != nil {
			entry = entry.WithError(f.Err)
		}
		entry.Warn("problem found")
		began = append(began, f.Problem)
	}
	for p := range t.known {
		if !now[p] {
			t.problem(p).Info("problem is over")
			over = append(over, p)
		}
	}
	t.known = now
	return inventory.SortProblems(began), inventory.SortProblems(over)
}

func (t *transitions) problem(p nodestate.Problem) *logrus.Entry {
	fields := logrus.Fields{"reason": string(p.Reason), "detail": p.Message}
	if p.NodeENI != "" {
		fields["nodeENI"] = p.NodeENI
	}
	if p.Device != "" {
		fields["device"] = p.Device
	}
	return t.out.WithFields(fields)
}

// devices logs the rows that have come, gone, or changed their phase.
func (t *transitions) devices(devices []nodestate.Device) {
	now := make(map[phaseKey]nodestate.Phase, len(devices))
	for _, d := range devices {
		key := keyOf(d)
		now[key] = d.Phase
		was, known := t.phases[key]
		if was == d.Phase {
			continue
		}
		entry := t.out.WithFields(logrus.Fields{
			"eniID": d.ENIID, "nodeENI": d.NodeENI, "pciAddress": d.PCIAddress, "interface": d.InterfaceName, "phase": d.Phase,
		})
		if known {
			entry = entry.WithField("was", was)
		}
		entry.Info("device changed its phase")
	}
	for key, was := range t.phases {
		if _, there := now[key]; !there && key.eni != "" {
			t.out.WithFields(logrus.Fields{"eniID": key.eni, "was": was}).Info("device left the inventory")
		}
	}
	t.phases = now
}
