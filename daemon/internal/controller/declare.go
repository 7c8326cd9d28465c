package controller

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/catalog"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// declare makes the slots that the NodeENIs want, and marks the others.
func (l *loop) declare(n *node) {
	result := l.wantedOn(n)
	seen := map[slots.ID]bool{}
	for _, want := range result.Slots {
		seen[want.ID] = true
		s := n.slots[want.ID]
		if was := l.slots[want.ID]; s == nil && was != nil {
			if !l.moves(was, n) {
				continue
			}
			s = was
		}
		if s == nil {
			s = l.addSlot(n, want)
			s.since = l.Now()
			if g, ok := l.gone[want.ID]; ok {
				s.mem = g.mem
				delete(l.gone, want.ID)
			}
		}
		want.Index, want.Card = s.Index, s.Card
		if !s.declared && s.mem.ENI == "" {
			want.Index = want.Exact
		}
		if want.NodeENI != s.NodeENI {
			s.withdraw()
		}
		l.want(s, true)
		s.Slot, s.declared = &want, true
	}
	for id, s := range n.slots {
		if !seen[id] {
			d := l.declOf(s)
			// Without an entry nobody has decided yet: an ENI that a NodeENI may want is kept.
			l.want(s, (s.wanted || s.entry == nil) && d != nil && !d.object.Deleting && result.Keep(s.NodeENI.UID, n.name))
		}
	}
	l.noteFaults(n, result.Faults)
}

// want notes whether a slot is wanted. A call of the other intention is not sent any more.
func (l *loop) want(s *slot, wanted bool) {
	if s.wanted != wanted {
		s.withdraw()
	}
	s.wanted = wanted
}

// withdraw keeps the slot's call from being sent, if it has not been yet.
func (s *slot) withdraw() {
	if s.end != nil {
		s.end(vpc.ErrWithdrawn)
	}
}

// moves gives a slot to the node that its instance is now, unless two Nodes are of one instance: the first one keeps it.
func (l *loop) moves(s *slot, n *node) bool {
	if was := l.nodes[s.Node]; was != nil && was.slots[s.ID] == s {
		if o := l.Cluster.Node(s.Node); o != nil && vpc.InstanceOf(o.Is.ProviderID) == s.Instance {
			return false
		}
		delete(was.slots, s.ID)
		l.dirtyNodes[s.Node] = true
	}
	n.slots[s.ID] = s
	return true
}

func (l *loop) wantedOn(n *node) slots.Result {
	in := slots.Input{Cluster: l.cluster}
	for _, d := range l.decls {
		switch {
		case !d.object.Known || d.object.Fault != "":
			in.Unreadable = append(in.Unreadable, d.object.UID)
		case n.object != nil && !d.object.Deleting && slots.Selects(d.want.Spec.NodeSelector, n.is.Labels):
			in.NodeENIs = append(in.NodeENIs, d.want)
		}
	}
	if n.object != nil {
		in.Nodes = []slots.Node{n.is}
	}
	if len(in.NodeENIs) > 0 {
		l.ask(nodeKey+n.name, l.catalog.Ask(l.Now(), in.NodeENIs))
		if n.is.VPC == "" && catalog.NeedsVPC(in.NodeENIs) {
			l.readNode(n)
		}
	}
	in.Catalog = l.catalog.Known()
	return slots.Slots(in)
}

// ask asks EC2 for subnets and groups, for the object of that key. All nodes that NodeENIs select may wait for the answer.
func (l *loop) ask(key string, q catalog.Question) {
	again := func() {
		for other := range l.nodes {
			l.dirtyNodes[other] = true
		}
	}
	if q.Subnets() {
		do(l, l.looks, vpc.PrioritySingle, func(ctx context.Context) ([]vpc.Subnet, error) { return l.EC2.Subnets(ctx, q.SubnetIDs, q.SubnetNames) },
			func(list []vpc.Subnet, err error) {
				l.catalog.Subnets(l.Now(), q, list, err)
				l.answered("DescribeSubnets", key, err, again)
			})
	}
	if q.Groups() {
		do(l, l.looks, vpc.PrioritySingle, func(ctx context.Context) ([]vpc.SecurityGroup, error) {
			return l.EC2.SecurityGroups(ctx, q.GroupIDs, q.GroupNames)
		}, func(list []vpc.SecurityGroup, err error) {
			l.catalog.Groups(l.Now(), q, list, err)
			l.answered("DescribeSecurityGroups", key, err, again)
		})
	}
}

// answered goes on after an answer about no slot in particular, or looks later at the object of that key again.
func (l *loop) answered(action, key string, err error, again func()) {
	if err == nil {
		l.said.Forget(action)
		again()
		return
	}
	if l.said.Once(action, err.Error()) {
		l.Log.WithError(err).WithField("action", action).Warn("EC2 does not answer; it is asked again")
	}
	l.times.Set(key, l.Now().Add(lookAgain))
}

// lookAgain is when EC2 is asked again after a failed look about no slot in particular.
const lookAgain = 5 * time.Second

func (l *loop) noteFaults(n *node, faults []slots.Fault) {
	n.doubtful = false
	now := map[[2]string]string{}
	for _, f := range faults {
		k := [2]string{f.NodeENI.Name, f.Reason}
		now[k] = f.Message
		switch f.Reason {
		case slots.InvalidSubnet, slots.AmbiguousSubnet, slots.InvalidSecurityGroup, slots.AmbiguousSecurityGroup:
			n.doubtful = true
		}
		d := l.decls[f.NodeENI.Name]
		subject := f.Reason
		if f.Node != "" {
			subject += " " + f.Node
		}
		if d == nil || !d.said.Once(subject, f.Message) {
			continue
		}
		l.tell(true, f.NodeENI.Name, f.NodeENI.UID, f.Node, f.Reason, f.Message)
		l.Log.WithFields(map[string]any{"nodeeni": f.NodeENI.Name, "node": f.Node, "reason": f.Reason}).Warn(f.Message)
	}
	for k := range n.faults {
		if d := l.decls[k[0]]; d != nil && now[k] == "" {
			d.said.Forget(k[1] + " " + n.name)
		}
	}
	n.faults = now
}
