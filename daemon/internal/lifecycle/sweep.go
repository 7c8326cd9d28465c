package lifecycle

import (
	"cmp"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Rules of the sweep.
const (
	sweepAfter = 10 * time.Minute
	sweepMost  = 50
)

// World is Kubernetes' side of the sweep, read after EC2 was listed.
type World struct {
	Cluster string
	// Live are the slots that are wanted, kept, or not yet gone. Held are the ids of their ENIs.
	Live map[slots.ID]bool
	Held map[string]bool
	// Parking are the NodeENIs, by UID, whose ENIs outlive their instances, each with its subnets.
	Parking map[string]map[string]bool
	// Unsure are NodeENIs, by UID, that may have ENIs that outlive their instances besides those of Parking: nobody knows.
	Unsure map[string]bool
	// Instances are the ids of all Nodes' instances.
	Instances map[string]bool
}

// Leaks are the ENIs that nobody needs.
type Leaks struct {
	// Delete are due in this round.
	Delete []vpc.Interface
	// Report are these, leaks seen too lately, and ENIs of the public controller without a cluster's tag.
	Report []vpc.Interface
	// Parked wait for the next node of their NodeENI.
	Parked []vpc.Interface
	// Seen is for the next round under the same leadership: when each leak with this cluster's tag was seen first.
	Seen map[string]time.Time
}

// FindLeaks looks for ENIs without a slot. The interfaces are all of the region with this cluster's tag or the public controller's, listed at the time at.
// Seen comes from the last round; it is nil in the first under a leadership.
func FindLeaks(interfaces []vpc.Interface, w World, seen map[string]time.Time, at time.Time) Leaks {
	l := Leaks{Seen: map[string]time.Time{}}
	for _, e := range slices.SortedFunc(slices.Values(interfaces), func(a, b vpc.Interface) int { return cmp.Compare(a.ID, b.ID) }) {
		switch {
		case e.Unreadable != nil || e.Status != "available" || e.Attachment != nil || w.Held[e.ID]:
		case e.Tags[slots.TagCluster] == "":
			if e.Tags[slots.TagManagedBy] == slots.ManagedBy && e.Tags[vpc.NodeENITag] != "" {
				l.Report = append(l.Report, e)
			}
		case e.Tags[slots.TagCluster] != w.Cluster || w.Live[slots.ID(e.Tags[slots.TagSlot])]:
		case w.parked(e):
			l.Parked = append(l.Parked, e)
		case w.Unsure[e.Tags[slots.TagNodeENI]]:
		default:
			first, ok := seen[e.ID]
			if !ok {
				first = at
			}
			l.Seen[e.ID] = first
			l.Report = append(l.Report, e)
			if ok && at.Sub(first) >= sweepAfter && len(l.Delete) < sweepMost {
				l.Delete = append(l.Delete, e)
			}
		}
	}
	return l
}

// parked reports whether an available ENI waits for the next node of its NodeENI.
func (w World) parked(e vpc.Interface) bool {
	return w.Parking[e.Tags[slots.TagNodeENI]][e.SubnetID] && !w.Instances[e.Tags[slots.TagInstance]]
}

// Moves gives each parked ENI to one wanted slot without an ENI, in a stable order. Each slot may also create one.
func Moves(parked []vpc.Interface, wanted []slots.Slot) map[slots.ID]vpc.Interface {
	moves := map[slots.ID]vpc.Interface{}
	free := slices.SortedFunc(slices.Values(parked), func(a, b vpc.Interface) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range slices.SortedFunc(slices.Values(wanted), func(a, b slots.Slot) int { return cmp.Compare(a.ID, b.ID) }) {
		for i, e := range free {
			if e.Tags[slots.TagNodeENI] == s.NodeENI.UID && e.SubnetID == s.Subnet && !s.Options.DeleteOnTermination {
				moves[s.ID] = e
				free = slices.Delete(free, i, i+1)
				break
			}
		}
	}
	return moves
}
