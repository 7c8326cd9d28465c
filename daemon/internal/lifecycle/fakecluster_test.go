package lifecycle

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// fakeCluster is Kubernetes in memory, with its daemons.
type fakeCluster struct {
	rng      *rand.Rand
	nodeENIs map[string]*v1alpha1.NodeENI
	nodes    map[string]*fakeNode
	// trouble is the chance that a write fails, or its answer gets lost.
	trouble float64
	writes  int
}

// fakeNode is a Node, its ENINodeState and its daemon.
type fakeNode struct {
	slots.Node
	ready bool
	state *fakeState
	// The daemon.
	dead, frozen bool
	old          bool
	pods         map[string]bool // ENIs that a pod has
	offered      map[string]bool
	// late is the write of an earlier daemon that is under way still.
	late *fakeStatus
}

// fakeState is an ENINodeState. Each write makes new maps, so that old ones stay readable.
type fakeState struct {
	generation int
	spec       map[slots.ID]v1alpha1.AttachmentEntry
	status     fakeStatus
	// history are specs of late readers.
	history  []map[slots.ID]v1alpha1.AttachmentEntry
	statuses []fakeStatus
}

type fakeStatus struct {
	reported bool
	protocol int
	seen     int // the generation of the spec: each change of it changes the status somehow
	released map[slots.ID]v1alpha1.ReleasedENI
	device   map[string]string
	holders  map[string]bool
}

var errConflict = errors.New("the object has been modified")

// write stores an entry, or removes it where it is nil. The error may be a lie.
func (c *fakeCluster) write(node, instance string, id slots.ID, generation *int, entry *v1alpha1.AttachmentEntry) error {
	n := c.nodes[node]
	if n == nil || n.Instance() != instance {
		return nil
	}
	if c.rng.Float64() < c.trouble {
		return errors.New("the API server is away")
	}
	if n.state == nil {
		n.state = &fakeState{generation: c.writes} // never again a number that it has had
		*generation = n.state.generation
	}
	if *generation != n.state.generation {
		*generation = n.state.generation // the informer brings the new object
		return errConflict
	}
	s := n.state
	s.history = append(s.history, s.spec)
	s.spec = maps.Clone(s.spec)
	if s.spec == nil {
		s.spec = map[slots.ID]v1alpha1.AttachmentEntry{}
	}
	if entry == nil {
		delete(s.spec, id)
	} else {
		s.spec[id] = *entry
	}
	s.generation++
	c.writes++
	*generation = s.generation
	if c.rng.Float64() < c.trouble {
		return errors.New("the answer of the API server got lost")
	}
	return nil
}

// runDaemon lets a node's daemon act once.
func (c *fakeCluster) runDaemon(n *fakeNode) {
	if n.dead || n.frozen || n.state == nil {
		return
	}
	s := n.state
	if !s.status.reported { // before it offers anything
		s.report(fakeStatus{reported: true, protocol: n.protocol()})
		return
	}
	s.report(n.act())
}

// killDaemon ends a daemon during its write, and another one begins.
func (n *fakeNode) killDaemon() {
	if n.state != nil && n.state.status.reported && !n.dead && !n.frozen {
		n.late = new(n.act())
	}
}

// act offers the devices of the entries, and returns the status to report.
func (n *fakeNode) act() fakeStatus {
	s := n.state
	n.offered = map[string]bool{}
	st := fakeStatus{
		reported: true, protocol: n.protocol(), seen: s.generation,
		released: map[slots.ID]v1alpha1.ReleasedENI{}, device: map[string]string{}, holders: maps.Clone(n.pods),
	}
	for _, id := range slices.Sorted(maps.Keys(s.spec)) {
		e := s.spec[id]
		switch {
		case e.ENIID == "" || e.AttachmentID == "":
		case e.Wanted == v1alpha1.WantedAttached:
			n.offered[e.ENIID] = true
			st.device[e.ENIID] = "ready"
		case n.pods[e.ENIID]:
			st.device[e.ENIID] = "draining"
		case n.old: // it gives the device to no pod, but cannot say so
		default:
			st.released[id] = v1alpha1.ReleasedENI{Slot: e.Slot, ENIID: e.ENIID, Release: e.Release}
		}
	}
	return st
}

func (n *fakeNode) protocol() int {
	if n.old {
		return 0
	}
	return 1
}

// report writes the status if it is another.
func (s *fakeState) report(st fakeStatus) {
	same := st.reported == s.status.reported && st.seen == s.status.seen && st.protocol == s.status.protocol && maps.Equal(st.released, s.status.released) &&
		maps.Equal(st.device, s.status.device) && maps.Equal(st.holders, s.status.holders)
	if !same {
		s.statuses = append(s.statuses, s.status)
		s.status = st
	}
}

// runPods lets pods begin and end on a node.
func (c *fakeCluster) runPods(n *fakeNode, end bool) {
	for _, eni := range slices.Sorted(maps.Keys(n.pods)) {
		if end || c.rng.IntN(3) == 0 {
			delete(n.pods, eni)
		}
	}
	for _, eni := range slices.Sorted(maps.Keys(n.offered)) {
		if !end && c.rng.IntN(2) == 0 {
			n.pods[eni] = true
		}
	}
}

// observe returns a slot's node as a controller sees it.
func (c *fakeCluster) observe(cell *fakeCell, since time.Time, late bool) Node {
	n := c.nodes[cell.slot.Node]
	if n == nil || n.Instance() != cell.slot.Instance {
		return Node{Since: since}
	}
	out := Node{Exists: true, Ready: n.ready, Since: since}
	out.Lost = cell.object != nil && cell.object != n.state
	if n.state == nil {
		return out
	}
	st := n.state.status
	if h := n.state.statuses; late && len(h) > 0 {
		st = h[len(h)-1]
	}
	out.Reported, out.Protocol = st.reported, st.protocol
	if stored, ok := n.state.spec[cell.slot.ID]; ok {
		cell.entry.Release = Number(cell.entry, stored)
		out.Released = cell.entry.ENIID == cell.mem.ENI && Answered(cell.entry, stored, slices.Collect(maps.Values(st.released)))
	}
	out.Device = st.device[cell.mem.ENI]
	if st.holders[cell.mem.ENI] {
		out.Holders = []string{"apps/pod"}
	}
	return out
}
