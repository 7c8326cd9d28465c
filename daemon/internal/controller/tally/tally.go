// Package tally counts the work of the controller, for its metrics.
package tally

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// attachBounds are the upper bounds of the buckets of AttachSeconds.
var attachBounds = []float64{0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800}

// Histogram counts observations. Counts[i] has those up to Bounds[i], without those of the buckets before; the last one has the rest.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
}

// Snapshot is the state at one time. Nothing in it is shared.
type Snapshot struct {
	// Leader: this replica leads, and has read the cluster and EC2. The values below are zero without, but AttachSeconds.
	Leader bool
	// OtherController: the public controller is at work, therefore nothing is changed.
	OtherController bool
	// Slots are numbers by phase, Blocked by reason.
	Slots, Blocked map[string]int
	// AttachSeconds are the times from the first sight of a slot to its ENI's attachment.
	AttachSeconds Histogram
	// Leaked ENIs have this cluster's tag and belong to no slot, Parked ones wait for a node.
	Leaked, Parked int
	// ReleaseWait is for how long the oldest release has been waiting for its node.
	ReleaseWait time.Duration
	// Resynced is the time of the last comparison of EC2 with the cluster.
	Resynced time.Time
	// Turned is the end of the loop's last turn.
	Turned time.Time
}

// Node has the values of one node's slots.
type Node struct {
	Slots, Blocked map[string]int
	// WaitsSince is when the oldest release began to wait for the node; zero for none.
	WaitsSince time.Time
}

// Tally is safe for concurrent use. The zero value is ready.
type Tally struct {
	mu     sync.Mutex
	nodes  map[string]Node
	attach Histogram
	now    Snapshot
}

// Begin notes the begin of a leadership, End its end.
func (t *Tally) Begin() { t.reset(true) }

// End forgets all but AttachSeconds.
func (t *Tally) End() { t.reset(false) }

func (t *Tally) reset(leader bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes, t.now = map[string]Node{}, Snapshot{Leader: leader}
}

// SetNode replaces the values of a node; zero values forget it.
func (t *Tally) SetNode(name string, n Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(n.Slots) == 0 && len(n.Blocked) == 0 && n.WaitsSince.IsZero() {
		delete(t.nodes, name)
		return
	}
	if t.nodes == nil {
		t.nodes = map[string]Node{}
	}
	t.nodes[name] = n
}

// Attached notes how long a slot took.
func (t *Tally) Attached(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attach.Counts == nil {
		t.attach = Histogram{Bounds: attachBounds, Counts: make([]uint64, len(attachBounds)+1)}
	}
	i, _ := slices.BinarySearch(attachBounds, d.Seconds())
	t.attach.Counts[i]++
	t.attach.Sum += d.Seconds()
}

// Resynced notes a comparison of EC2 with the cluster, and its findings.
func (t *Tally) Resynced(at time.Time, leaked int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.Resynced, t.now.Leaked = at, leaked
}

// Turn notes the end of a turn of the loop.
func (t *Tally) Turn(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.Turned = at
}

// OtherController notes whether the public controller is at work.
func (t *Tally) OtherController(yes bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.OtherController = yes
}

// Snapshot returns the present values. parked is the phase whose slots are parked.
func (t *Tally) Snapshot(now time.Time, parked string) Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.now
	out.Slots, out.Blocked = map[string]int{}, map[string]int{}
	for _, n := range t.nodes {
		for p, c := range n.Slots {
			out.Slots[p] += c
		}
		for r, c := range n.Blocked {
			out.Blocked[r] += c
		}
		if !n.WaitsSince.IsZero() {
			out.ReleaseWait = max(out.ReleaseWait, now.Sub(n.WaitsSince))
		}
	}
	out.Parked = out.Slots[parked]
	out.AttachSeconds = Histogram{Bounds: slices.Clone(attachBounds), Counts: make([]uint64, len(attachBounds)+1), Sum: t.attach.Sum}
	copy(out.AttachSeconds.Counts, t.attach.Counts)
	return out
}

// Equal compares the values of a node, so that a caller may pass over equal ones.
func (n Node) Equal(o Node) bool {
	return n.WaitsSince.Equal(o.WaitsSince) && maps.Equal(n.Slots, o.Slots) && maps.Equal(n.Blocked, o.Blocked)
}
