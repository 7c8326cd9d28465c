package controller

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/entries"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/once"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/pace"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/queue"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/tally"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// node is a Node, or the memory of one whose slots are not gone yet.
type node struct {
	name   string
	object *fleet.Object[fleet.Node]  // nil if there is none
	state  *fleet.Object[fleet.State] // nil if there is none
	is     slots.Node
	// instance is the id of its EC2 instance; "" without one.
	instance string
	since    time.Time
	// reported is the instance whose daemon has reported, in any ENINodeState.
	reported string
	slots    map[slots.ID]*slot

	plan      slots.Plan // of this look only
	plannedAt time.Time
	// vpcID and ownType are its instance's, once EC2 has shown them.
	vpcID, ownType string
	// reading: the instance's ENIs are asked for; readers wait for them.
	reading bool
	readers []reader
	// busy: a write of its ENINodeState is under way. retryAt is when the next may be made.
	busy    bool
	retryAt time.Time
	retry   pace.Writes
	changed time.Time // when the entries began to differ from those written
	// faults are messages by NodeENI and reason. doubtful: EC2 may say otherwise later.
	faults   map[[2]string]string
	doubtful bool
	counted  tally.Node
	said     once.Memory
}

// slot is the controller's memory of a slot.
type slot struct {
	*slots.Slot // nobody changes it, because calls may read it: another one takes its place
	mem         lifecycle.Memory
	// pending is the memory that counts once the node's entries are written; nil for none.
	pending *lifecycle.Memory
	// entry is nil before the first one. Nobody changes it: the ENINodeState may have the same.
	entry *v1alpha1.AttachmentEntry
	// ground belongs to the last call that changes something.
	ground ground
	// wanted: a NodeENI wants it, or might. declared: the fields are a NodeENI's, not an old entry's.
	wanted, declared bool
	// busy: a call about it is under way; end withdraws it, if it is not sent yet.
	busy               bool
	end                context.CancelCauseFunc
	opening, detaching bool   // detaching: its Detach was answered
	storedIn           string // the UID of the ENINodeState that has had its entry
	instance           *vpc.Instance
	instanceAt         time.Time
	since              time.Time       // when it was first wanted; zero if it was older
	waits              time.Time       // since when its release waits for the node
	shown              lifecycle.Phase // the last one that was told
	said               once.Memory
}

// reader is a slot that waits for the ENIs of its instance, as a step.
type reader struct {
	*slot
	step lifecycle.Step
}

// lookAtNode brings all slots of a node one step further.
func (l *loop) lookAtNode(name string) {
	n := l.nodes[name]
	object, state := l.Cluster.Node(name), l.Cluster.State(name)
	if n == nil {
		if object == nil && state == nil {
			return
		}
		n = l.addNode(name)
	}
	before := n.object
	n.object, n.state = object, state
	if state != nil && state.Fault != "" || object != nil && !object.Known {
		if n.said.Once("unreadable", "") {
			l.Log.WithField("node", name).Warn("the Node or its ENINodeState cannot be read, so its ENIs stay as they are")
		}
		return
	}
	n.said.Forget("unreadable")
	was := n.instance
	n.is, n.instance = slots.Node{Name: name}, ""
	if object != nil {
		n.is = slots.Node{Name: name, ProviderID: object.Is.ProviderID, Labels: object.Is.Labels, VPC: n.vpcID}
		n.instance = n.is.Instance()
	}
	if n.instance != was {
		n.ownType = ""
	}
	l.recall(n)
	l.declare(n)
	if l.removeStale(n) {
		return
	}
	l.makePlan(n)
	l.nudgeNode(n, before)
	next := time.Time{}
	for _, s := range n.sorted() {
		next = queue.Earlier(next, l.lookAtSlot(n, s))
	}
	n.plan = slots.Plan{}
	next = queue.Earlier(next, l.writeSpec(n))
	if n.doubtful {
		next = queue.Earlier(next, l.catalog.Due(l.Now()))
	}
	l.count(n)
	if len(n.slots) == 0 && n.object == nil && n.state == nil && !n.busy {
		delete(l.nodes, name)
		next = time.Time{}
	}
	l.times.Set(nodeKey+name, next)
}

func (l *loop) addNode(name string) *node {
	n := &node{name: name, since: l.Now(), slots: map[slots.ID]*slot{}, faults: map[[2]string]string{}}
	l.nodes[name] = n
	return n
}

func (n *node) sorted() []*slot {
	return slices.SortedFunc(maps.Values(n.slots), func(a, b *slot) int {
		return cmp.Or(cmp.Compare(a.Exact, b.Exact), cmp.Compare(a.NodeENI.Name, b.NodeENI.Name), cmp.Compare(a.ID, b.ID))
	})
}

func (l *loop) addSlot(n *node, s slots.Slot) *slot {
	added := &slot{Slot: &s}
	n.slots[s.ID] = added
	l.slots[s.ID] = added
	if l.members[s.NodeENI.UID] == nil {
		l.members[s.NodeENI.UID] = map[slots.ID]*slot{}
	}
	l.members[s.NodeENI.UID][s.ID] = added
	return added
}

func (l *loop) dropSlot(n *node, s *slot) {
	l.setOpening(s, false)
	delete(n.slots, s.ID)
	delete(l.slots, s.ID)
	of := l.members[s.NodeENI.UID]
	delete(of, s.ID)
	if len(of) == 0 {
		delete(l.members, s.NodeENI.UID)
	}
	l.dirtyDecls[s.NodeENI.Name] = true
}

// recall makes slots of the entries that an earlier leader has left, and learns the numbers of those that another one has changed.
func (l *loop) recall(n *node) {
	if n.state == nil {
		return
	}
	for i := range n.state.Is.Spec.Attachments {
		e := &n.state.Is.Spec.Attachments[i]
		id := slots.ID(e.Slot)
		if s := l.slots[id]; s != nil {
			if number := lifecycle.Number(s.present(), *e); s.entry != nil && number != s.entry.Release {
				now := *s.entry
				now.Release = number
				s.show(now)
			}
			continue
		}
		if g, gone := l.gone[id]; gone && g.attempt == e.Attempt {
			continue // dropped a moment ago; the entry goes with the next write
		}
		s := l.addSlot(n, slots.FromEntry(slots.Entry{Node: n.name, AttachmentEntry: *e}))
		s.mem, s.entry = lifecycle.Restore(*e, l.Now()), e
		s.storedIn = n.state.UID
		s.wanted, s.shown = e.Wanted == v1alpha1.WantedAttached, s.mem.Phase
	}
}

// recallOwned makes slots of the ENIs in EC2 that no entry names.
func (l *loop) recallOwned() {
	for v := range l.enis.Owned {
		s, ok := slots.FromTags(v, l.cluster)
		if !ok || l.slots[s.ID] != nil || s.Node == "" {
			continue
		}
		if v.Attachment == nil && v.Status == "available" && l.declared(s.NodeENI) == nil {
			continue // nobody waits for it: the sweep's
		}
		n := l.nodes[s.Node]
		if n == nil {
			n = l.addNode(s.Node)
		}
		// The entries come first: they know more.
		n.state = l.Cluster.State(s.Node)
		l.recall(n)
		if l.slots[s.ID] == nil {
			l.addSlot(n, s)
		}
		l.dirtyNodes[s.Node] = true
	}
}

// removeStale deletes the ENINodeState of an earlier Node of the same name. Until it is gone nothing is done on the node.
func (l *loop) removeStale(n *node) bool {
	if n.object == nil || n.state == nil || n.state.Is.Owner == "" || n.state.Is.Owner == n.object.UID {
		return false
	}
	if n.busy || l.paused() {
		return true
	}
	if l.Now().Before(n.retryAt) {
		l.times.Set(nodeKey+n.name, n.retryAt)
		return true
	}
	n.busy = true
	uid := n.state.UID
	l.write(func(ctx context.Context) error { return l.Cluster.DeleteState(ctx, n.name, uid) }, func(err error) {
		n.busy = false
		n.retryAt = l.again(&n.retry, err, logrus.Fields{"node": n.name}, "ENINodeState of an earlier Node not deleted; it is tried again")
		l.times.Set(nodeKey+n.name, queue.Later(n.retryAt, l.Now().Add(pace.Retry)))
	})
	return true
}

// count tells the metrics.
func (l *loop) count(n *node) {
	c := tally.Node{Slots: map[string]int{}, Blocked: map[string]int{}}
	for _, s := range n.slots {
		e := s.present()
		c.Slots[e.Phase]++
		if entries.StandsStill(e) {
			c.Blocked[e.Reason]++
		}
		c.WaitsSince = queue.Earlier(c.WaitsSince, s.waits)
	}
	for k := range n.faults {
		c.Blocked[k[1]]++
	}
	if !c.Equal(n.counted) {
		n.counted = c
		l.Tally.SetNode(n.name, c)
	}
}
