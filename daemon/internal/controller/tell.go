package controller

import (
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/enis"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/told"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

func (l *loop) log(n *node, s *slot) logrus.FieldLogger {
	return l.Log.WithFields(logrus.Fields{"slot": string(s.ID), "node": n.name, "instance": s.Instance, "nodeeni": s.NodeENI.Name, "eni": s.mem.ENI})
}

func (l *loop) tell(warning bool, nodeENI, uid, node, reason, message string) {
	l.Cluster.Tell(fleet.Event{NodeENI: nodeENI, UID: uid, Node: node, Warning: warning, Reason: reason, Message: message})
}

func (l *loop) tellSlot(s *slot, warning bool, reason, message string) {
	l.tell(warning, s.NodeENI.Name, s.NodeENI.UID, s.Node, reason, message)
}

// told notes the state of a slot that waits, and tells it once.
func (l *loop) told(n *node, s *slot, now time.Time) {
	m := &s.mem
	up := m.Phase == lifecycle.Attached || m.Phase == lifecycle.Ready || m.Phase == lifecycle.External
	was := s.shown == lifecycle.Attached || s.shown == lifecycle.Ready || s.shown == lifecycle.External
	if up && !was {
		if !s.since.IsZero() {
			l.Tally.Attached(now.Sub(s.since))
		}
		if m.Phase != lifecycle.External {
			l.log(n, s).Info("ENI attached")
			l.tellSlot(s, false, told.ENIAttached, fmt.Sprintf("%s is attached to node %s (%s) at device index %d", m.ENI, s.Node, s.Instance, s.Index))
		}
	}
	if s.shown != m.Phase {
		s.shown = m.Phase
		l.dirtyDecls[s.NodeENI.Name] = true
	}
	if up {
		s.since = time.Time{}
	}
	l.countOpening(s)
	switch {
	case s.wanted || m.Phase != lifecycle.Draining || m.Reason == lifecycle.InstanceNotRunning:
		s.waits = time.Time{}
	case s.waits.IsZero():
		s.waits = now
	}
	if m.Reason == "" || m.Reason == lifecycle.Throttled {
		s.said.Forget("reason")
	} else if s.said.Once("reason", m.Reason) {
		l.log(n, s).WithField("reason", m.Reason).Warn(m.Message)
		l.tellSlot(s, true, m.Reason, m.Message)
	}
}

// tellResult tells how a call about a slot ended.
func (l *loop) tellResult(n *node, s *slot, step lifecycle.Step, err error) {
	log := l.log(n, s).WithField("call", step.Do.String())
	if step.ENI != "" {
		log = log.WithField("eni", step.ENI)
	}
	if err == nil {
		if step.Do.Mutates() {
			log.Info("ENI changed")
		} else {
			log.Debug("EC2 has answered")
		}
		s.said.Forget(step.Do.String())
		switch step.Do { //nolint:exhaustive // the others have no Event
		case lifecycle.Detach, lifecycle.ForceDetach:
			s.detaching = true
		case lifecycle.Delete:
			l.tellSlot(s, false, told.ENIDeleted, fmt.Sprintf("%s of node %s is deleted", step.ENI, s.Node))
		}
		return
	}
	if step.Do == lifecycle.Delete && enis.NotFound(err) {
		l.tellSlot(s, false, told.ENIAlreadyDeleted, fmt.Sprintf("%s of node %s does not exist any more", step.ENI, s.Node))
		return
	}
	var e *vpc.EC2Error
	log.WithError(err).Debug("call failed")
	if errors.As(err, &e) && s.mem.Reason != "" && s.mem.Reason != lifecycle.Throttled {
		l.tellFailed(n, s, step.Do)
	}
}

// tellFailed tells once why EC2 refuses a call.
func (l *loop) tellFailed(n *node, s *slot, do lifecycle.Action) {
	if !s.said.Once(do.String(), s.mem.Reason) {
		return
	}
	l.log(n, s).WithFields(logrus.Fields{"call": do.String(), "reason": s.mem.Reason}).Warn("EC2 refuses the call: " + s.mem.Message)
	if reason := told.Failed[do]; reason != "" {
		l.tellSlot(s, true, reason, s.mem.Message)
	}
}

// tellDetached tells that EC2 has ended a detachment.
func (l *loop) tellDetached(n *node, s *slot, step lifecycle.Step) {
	if !s.detaching || step.Phase == lifecycle.Detaching || step.Do == lifecycle.Describe || step.Do == lifecycle.LookUp ||
		step.Do == lifecycle.ReadInstance {
		return
	}
	s.detaching = false
	l.log(n, s).Info("ENI detached")
	l.tellSlot(s, false, told.ENIDetached, fmt.Sprintf("%s is detached from node %s (%s)", s.mem.ENI, s.Node, s.Instance))
}
