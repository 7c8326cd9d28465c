package controller

import (
	"maps"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/once"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
)

// ground is what the answer to a slot's call depends on, but EC2 itself: the NodeENI with its resolved subnet and groups, and the place.
type ground struct{ wish, place uint64 }

func (n *node) ground(s *slot) ground {
	return ground{once.Hash(s.NodeENI.Generation, s.VPC, s.Zone, s.SubnetCIDR, s.Groups), once.Hash(s.Index, s.Card, n.plan.Holders)}
}

// nudge lets a slot go on whose last call was refused, if the ground of that call has changed since it was made.
func (l *loop) nudge(n *node, s *slot, now time.Time) {
	if !s.wanted || !s.mem.Failed.Mutates() || !now.Before(s.mem.RetryAt) || s.mem.Reason == "" || s.mem.Reason == lifecycle.Throttled {
		return
	}
	was, is := s.ground, n.ground(s)
	s.ground = is
	if was.wish != is.wish || was.place != is.place && needsPlace(s.mem.Reason) {
		s.mem = s.mem.Nudge()
	}
}

func needsPlace(reason string) bool {
	return reason == slots.NoFreeInterface || reason == lifecycle.IndexTaken
}

// nudgeNode does the same for the slots that wait for the node, after an event of its Node.
func (l *loop) nudgeNode(n *node, was *fleet.Object[fleet.Node]) {
	if n.object == nil || was == nil || was.UID == n.object.UID && was.Is.ProviderID == n.object.Is.ProviderID && was.Is.Ready == n.object.Is.Ready &&
		maps.Equal(was.Is.Labels, n.object.Is.Labels) {
		return
	}
	for _, s := range n.slots {
		switch reason := s.memory().Reason; {
		case reason == lifecycle.InstanceNotRunning:
			s.instance = nil // it is read anew
		case needsPlace(reason):
			l.readNode(n)
		default:
			continue
		}
		if s.wanted && !s.busy && s.pending == nil {
			s.mem = s.mem.Nudge()
		}
	}
}
