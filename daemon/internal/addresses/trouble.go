package addresses

import (
	"errors"
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// untagged reports why an ENI with demand gets no addresses.
func (m *Manager) untagged(d *nodestate.Device, eni vpc.Attached) {
	m.mu.Lock()
	defer m.mu.Unlock()
	why := fmt.Sprintf("it has no tag %s", vpc.NodeENITag)
	if eni.NodeENI != "" {
		why = fmt.Sprintf("its tag %s is %q", vpc.NodeENITag, eni.NodeENI)
	}
	m.describe = true // somebody may mend it
	t := m.troubleOf(d.ENIID)
	t.retry.Failed()
	m.set(t, nodestate.Problem{Reason: reason.ENINotTagged, NodeENI: d.NodeENI, Device: d.ENIID.String(), Message: fmt.Sprintf(
		"addresses of this ENI are neither assigned nor given back: %s; tag it %s=%s", why, vpc.NodeENITag, d.NodeENI)}, lastRetry)
}

// ready: a failed call may be repeated. Hold mu.
func (m *Manager) ready(s subject, now time.Time) bool {
	t := m.trouble[s]
	return t == nil || !now.Before(t.until)
}

func (m *Manager) forget(eni device.ENIID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.trouble[eni]; t != nil && t.absent.IsZero() {
		delete(m.trouble, eni)
		if t.problem.Reason != "" {
			m.Wake()
		}
	}
}

func kindOf(err error) vpc.EC2Kind {
	var e *vpc.EC2Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return vpc.EC2Unknown
}

// failed notes a failure and when to try again. The first is a Problem if a person must act, else the second is. Hold mu.
func (m *Manager) failed(s subject, err error, what string) {
	t := m.troubleOf(s)
	again, wait := t.retry.Failing(), t.retry.Failed()
	p := nodestate.Problem{Device: s.String()}
	advice := adviceOf(err)
	switch kindOf(err) {
	case vpc.EC2Forbidden:
		p.Reason, wait = reason.EC2Forbidden, lastRetry
	case vpc.EC2Limit:
		p.Reason, advice, wait = reason.ENIAddressLimit, "the instance type allows no more for an ENI; use --manage-addresses=prefixes, or fewer pods", lastRetry
	case vpc.EC2SubnetFull:
		p.Reason, advice, wait = reason.SubnetFull, "the subnet has no more, or no whole prefix; add a reservation, or use another subnet", lastRetry
	case vpc.EC2Unauthenticated:
		if again {
			p.Reason = reason.EC2Unauthenticated
		}
	case vpc.EC2Throttled, vpc.EC2Unknown, vpc.EC2NotSent, vpc.EC2Refused:
		if again {
			p.Reason, advice = reason.EC2Failing, advice+"; tried again every 5 minutes at least"
		}
	}
	p.Message = fmt.Sprintf("%s: %v; %s", what, err, advice)
	m.set(t, p, wait+m.Jitter(wait/4))
	m.Log.WithError(err).WithField("eniID", s).Debug("EC2 call failed")
}

// troubleOf returns a subject's trouble, or a new one. Hold mu.
func (m *Manager) troubleOf(s subject) *trouble {
	if t := m.trouble[s]; t != nil {
		return t
	}
	return m.newTrouble(s)
}

func (m *Manager) newTrouble(s subject) *trouble {
	t := &trouble{retry: backoff.Backoff{First: firstRetry, Cap: lastRetry}}
	m.trouble[s] = t
	return t
}

// set notes a trouble's Problem, wakes if it is new, and waits. Hold mu.
func (m *Manager) set(t *trouble, p nodestate.Problem, wait time.Duration) {
	news := t.problem.Reason != p.Reason
	if !news {
		p = t.problem // request ids differ, so the first message stays
	}
	t.problem, t.until = p, m.Now().Add(wait)
	if news {
		m.Wake()
	}
}
