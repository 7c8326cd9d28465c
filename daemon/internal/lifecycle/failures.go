package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Reasons of failed calls.
const (
	Throttled       = "Throttled"
	IndexTaken      = "IndexTaken"
	NotPermitted    = "NotPermitted"
	SubnetFull      = string(reason.SubnetFull)
	Forbidden       = string(reason.Forbidden)
	Unauthenticated = "Unauthenticated"
	TerminationFlag = "TerminationFlag"
	Refused         = "Refused"
)

// failed notes a failure.
func failed(m Memory, st Step, err error, now time.Time) Memory {
	m = fail(m, st, err, now)
	m.why = &plight{m.Phase, m.Reason, m.Message}
	return m
}

func fail(m Memory, st Step, err error, now time.Time) Memory {
	if st.Do != m.Failed {
		m.Failed, m.Failures = st.Do, 0
	}
	n := m.Failures
	m.Failures++
	var e *vpc.EC2Error
	if !errors.As(err, &e) {
		m.RetryAt = now.Add(backoff(time.Second, time.Minute, n)) // nothing was sent
		return m
	}
	switch {
	case e.Code == "InvalidNetworkInterfaceID.NotFound" || e.Code == "InvalidAttachmentID.NotFound":
		return notFound(m, st, n, now)
	case e.Code == "InvalidInstanceID.NotFound":
		return noInstance(m, st, now)
	case e.Kind == vpc.EC2Throttled:
		m.RetryAt = now.Add(backoff(time.Second, 15*time.Second, n))
		m.Reason, m.Message = Throttled, fmt.Sprintf("EC2 takes %s less often than it is asked for: the controller slows down by itself", st.Do.Call())
		return m
	case e.Kind == vpc.EC2NotSent:
		m.RetryAt = now.Add(backoff(time.Second, time.Minute, n))
		return m
	case e.Kind == vpc.EC2Unknown:
		m.RetryAt = now.Add(backoff(time.Second, time.Minute, n))
		if st.Do.Mutates() {
			m.lookAfter, m.settled = now, now.Add(overlay)
		}
		return m
	}
	return refused(m, st, e, n, now)
}

// notFound: EC2 does not know the ENI, or the attachment.
func notFound(m Memory, st Step, n int, now time.Time) Memory {
	switch {
	case st.Do != Describe:
		m.RetryAt, m.lookAfter = now.Add(backoff(time.Second, 15*time.Second, n)), now
	case now.Before(m.createdAt.Add(young)):
		m.RetryAt = now.Add(backoff(time.Second, 15*time.Second, n))
	case m.missingSince.IsZero():
		m.missingSince, m.RetryAt = now, now.Add(absentAfter)
	case now.Sub(m.missingSince) < absentAfter:
		m.RetryAt = m.missingSince.Add(absentAfter)
	default:
		m.Failed, m.RetryAt, m.Failures = Wait, time.Time{}, 0
		m = m.ended(st.ENI)
	}
	return m
}

// noInstance: EC2 does not know the instance.
func noInstance(m Memory, st Step, now time.Time) Memory {
	m.RetryAt = now.Add(absentAfter)
	if st.Do.Mutates() {
		m.instanceAfter = now
		return m
	}
	switch {
	case m.instanceMissing.IsZero():
		m.instanceMissing = now
	case now.Sub(m.instanceMissing) >= absentAfter:
		m.instanceGone = true
	}
	return m
}

// rule is a row of the failure table.
type rule struct {
	reason      string
	first, most time.Duration
	// blocks: the slot stands still.
	blocks bool
	// remedy is the way out.
	remedy string
	// look, plan and instance say which knowledge is in doubt.
	look, plan, instance bool
}

// refused: EC2 has said no.
func refused(m Memory, st Step, e *vpc.EC2Error, n int, now time.Time) Memory {
	r := ruleFor(st, e, n)
	m.RetryAt = now.Add(backoff(r.first, r.most, n))
	if r.look {
		m.lookAfter = now
	}
	if r.plan {
		m.planAfter = now
	}
	if r.instance {
		m.instanceAfter = now
	}
	if e.Code == "IdempotentParameterMismatch" {
		if m.mismatch.IsZero() {
			m.mismatch = now
		}
		m.RetryAt = now
	}
	if r.reason == "" {
		return m
	}
	p := plight{m.Phase, r.reason, fmt.Sprintf("%s: EC2 says %v: %s", subject(st), e, r.remedy)}
	if r.blocks && st.Do != Detach && st.Do != ForceDetach && st.Do != Delete {
		p.phase = Blocked
	}
	if e.Kind == vpc.EC2Forbidden && st.ENI != "" && st.ENI == m.ENI && st.Do > Create {
		m.suspect = &suspect{st.Do, st.Attachment, p}
		return m
	}
	m.Phase, m.Reason, m.Message = p.phase, p.reason, p.message
	return m
}

// confirm says whether a forbidden call was forbidden indeed, by a look at its ENI: a call about something that is gone was not.
func (m Memory) confirm(i *vpc.Interface) Memory {
	s := m.suspect
	if s == nil {
		return m
	}
	m.suspect = nil
	if !s.still(i) {
		if m.Failed == s.do {
			m.Failed, m.RetryAt, m.Failures = Wait, time.Time{}, 0
		}
		return m
	}
	m.Denied, m.why = s.do, &s.plight
	m.Phase, m.Reason, m.Message = s.plight.phase, s.plight.reason, s.plight.message
	return m
}

// still: the call's subject is as it was before the call.
func (s *suspect) still(i *vpc.Interface) bool {
	if i == nil {
		return true
	}
	a := i.Attachment
	switch s.do { //nolint:exhaustive // the others are about the ENI itself
	case Detach, ForceDetach:
		return a != nil && a.ID == s.attachment && a.Status != "detaching" && a.Status != "detached"
	case SetTermination:
		return a != nil && a.ID == s.attachment
	case Attach:
		return a == nil
	}
	return true
}

// subject names slot and call.
func subject(st Step) string {
	s := st.Slot
	text := fmt.Sprintf("%s for NodeENI %s on node %s (instance %s, subnet %s", st.Do.Call(), s.NodeENI.Name, s.Node, s.Instance, s.Subnet)
	if st.ENI != "" {
		text += ", " + st.ENI
	}
	if st.Do == Attach {
		text += fmt.Sprintf(", device index %d, network card %d", s.Index, s.Card)
	}
	return text + ")"
}

func ruleFor(st Step, e *vpc.EC2Error, n int) rule {
	s, code := st.Slot, e.Code
	switch {
	case code == "IdempotentParameterMismatch":
		return rule{look: true}
	case st.Do == Attach && (code == "InvalidParameterValue" || code == "InvalidParameterCombination") && strings.Contains(e.Error(), "device index"):
		r := rule{reason: IndexTaken, first: time.Second, most: 4 * time.Second, look: true, plan: true,
			remedy: fmt.Sprintf("the controller looks at the instance and plans again; attached are %s", st.note.holders)}
		if n >= 2 {
			r.first, r.most, r.blocks = 5*time.Minute, 5*time.Minute, true
		}
		return r
	case code == "AttachmentLimitExceeded":
		return rule{reason: slots.NoFreeInterface, first: time.Minute, most: 10 * time.Minute, blocks: true, look: true, plan: true,
			remedy: fmt.Sprintf("attached are %s: remove one, or use a larger instance type", st.note.holders)}
	case code == "IncorrectInstanceState" || code == "IncorrectState" && st.Do == Attach:
		return rule{reason: InstanceNotRunning, first: 5 * time.Second, most: time.Minute, look: true, instance: true,
			remedy: "the controller reads the instance again"}
	case code == "InvalidNetworkInterface.InUse" || code == "InvalidParameterValue" && st.Do == Delete:
		return rule{first: time.Second, most: foreignAfter, look: true}
	case code == "OperationNotPermitted":
		return rule{reason: NotPermitted, first: time.Hour, most: time.Hour, blocks: true,
			remedy: "EC2 lets nobody do this to this ENI or instance: see who else manages it, or delete the ENI"}
	case code == "InsufficientFreeAddressesInSubnet" || e.Kind == vpc.EC2SubnetFull:
		return rule{reason: SubnetFull, first: 2 * time.Minute, most: 10 * time.Minute, blocks: true,
			remedy: fmt.Sprintf("free addresses in %s (%s), or use another subnet", s.Subnet, s.SubnetCIDR)}
	case strings.HasPrefix(code, "InvalidSubnet"):
		return rule{reason: slots.InvalidSubnet, first: 5 * time.Minute, most: 5 * time.Minute, blocks: true, remedy: "correct the subnet of the NodeENI"}
	case strings.HasPrefix(code, "InvalidGroup") || strings.HasPrefix(code, "InvalidSecurityGroup") || strings.Contains(e.Error(), "different networks"):
		return rule{reason: slots.InvalidSecurityGroup, first: 5 * time.Minute, most: 5 * time.Minute, blocks: true,
			remedy: fmt.Sprintf("correct the security groups of the NodeENI (%s): each must be of the subnet's VPC %s", strings.Join(s.Groups, ", "), s.VPC)}
	case e.Kind == vpc.EC2Forbidden:
		return rule{reason: Forbidden, first: 5 * time.Minute, most: 5 * time.Minute, blocks: true, look: true,
			remedy: fmt.Sprintf("give the controller's role ec2:%s, as in deploy/iam/multi-enid-controller.json", st.Do.Call())}
	case e.Kind == vpc.EC2Unauthenticated:
		return rule{reason: Unauthenticated, first: 30 * time.Second, most: 5 * time.Minute, blocks: true, remedy: e.Remedy()}
	case st.Do == SetTermination:
		return rule{reason: TerminationFlag, first: time.Second, most: 5 * time.Minute, look: true,
			remedy: "the ENI stays attached, and the controller tries again"}
	}
	return rule{reason: Refused, first: 5 * time.Second, most: 5 * time.Minute, look: true,
		remedy: "see the NodeENI's fields and annotations; the controller tries again"}
}
