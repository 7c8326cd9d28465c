package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/enis"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

const (
	// resyncAgain is when a failed list is tried again.
	resyncAgain = 30 * time.Second
	// goneFor is how long the attempts of a slot that ended are remembered.
	goneFor = 24 * time.Hour
)

// beginResync lists EC2 first, so that its answer is older than the cluster's objects.
func (l *loop) beginResync() {
	if l.resync {
		return
	}
	l.resync = true
	if l.AdoptPublic {
		l.relistPublic()
	}
	began := l.Now()
	do(l, l.looks, vpc.PriorityBulk, func(ctx context.Context) ([]vpc.Interface, error) { return l.EC2.Interfaces(ctx, l.ownedQuery()) },
		func(list []vpc.Interface, err error) {
			l.resync = false
			if err != nil {
				l.Log.WithError(err).Warn("the cluster's ENIs are not listed; it is tried again")
				l.times.Set(resyncKey, l.Now().Add(resyncAgain))
				return
			}
			l.enis.SeeAll(began, list)
			l.lookAtAll()
			l.finishResync(began, list)
		})
}

// finishResync compares both sides as wholes.
func (l *loop) finishResync(at time.Time, list []vpc.Interface) {
	now := l.Now()
	l.times.Set(resyncKey, now.Add(resyncEvery))
	for _, s := range l.slots {
		if !s.wanted && !s.busy && !s.detaching {
			s.instance = nil // it may have ended
		}
	}
	for id, g := range l.gone {
		if now.Sub(g.at) > goneFor {
			delete(l.gone, id)
		}
	}
	leaked := 0
	if l.LeakSweep != outside.SweepOff {
		leaked = l.sweepLeaks(at, list)
	}
	l.Tally.Resynced(now, leaked)
}

// sweepLeaks deletes ENIs that belong to nobody, as far as that is wanted, and returns how many with this cluster's tag there are.
func (l *loop) sweepLeaks(at time.Time, list []vpc.Interface) int {
	all := make([]vpc.Interface, 0, len(list)+len(l.public))
	for i := range list {
		if v, ok := l.enis.ENI(list[i].ID); ok { // as the own writes have left it
			all = append(all, v)
		}
	}
	leaks := lifecycle.FindLeaks(append(all, l.public...), l.world(), l.leaks, at)
	l.leaks, l.public = leaks.Seen, nil
	for _, v := range leaks.Report {
		if l.said.Once("leak "+v.ID, "") {
			l.Log.WithFields(map[string]any{"eni": v.ID, "subnet": v.SubnetID, "nodeeni": v.Tags[vpc.NodeENITag], "node": v.Tags[slots.TagNode]}).
				Warn("ENI belongs to no slot")
		}
	}
	if l.LeakSweep == outside.SweepDelete && !l.paused() {
		for _, v := range leaks.Delete {
			l.deleteLeak(v)
		}
	}
	return len(leaks.Seen)
}

func (l *loop) deleteLeak(v vpc.Interface) {
	alone := l.rivals.Alone()
	do(l, l.changes, vpc.PrioritySweep, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.EC2.Delete(vpc.WhileStanding(ctx, alone), v.ID)
	}, func(_ struct{}, err error) {
		log := l.Log.WithField("eni", v.ID)
		switch {
		case errors.Is(err, vpc.ErrWithdrawn): // another controller is at work
		case err == nil || enis.NotFound(err):
			l.enis.Deleted(l.Now(), v.ID)
			log.Info("leaked ENI deleted")
		default:
			log.WithError(err).Warn("leaked ENI not deleted; it is tried again")
		}
	})
}

// world is Kubernetes' side of the sweep.
func (l *loop) world() lifecycle.World {
	w := lifecycle.World{
		Cluster: l.cluster, Live: map[slots.ID]bool{}, Held: map[string]bool{}, Parking: map[string]map[string]bool{}, Unsure: map[string]bool{},
		Instances: map[string]bool{},
	}
	for id, s := range l.slots {
		if s.mem.Phase != lifecycle.Parked {
			w.Live[id] = true
			w.Held[s.mem.ENI] = true
		}
	}
	for _, d := range l.decls {
		rule := l.parking(d)
		w.Parking[d.object.UID], w.Unsure[d.object.UID] = rule.Subnets, rule.Unsure
	}
	for _, n := range l.nodes {
		if n.object != nil && n.instance != "" {
			w.Instances[n.instance] = true
		}
	}
	return w
}

// movable is the parked ENI that comes to the slot; nil for none.
func (l *loop) movable(s *slot) *vpc.Interface {
	d := l.declOf(s)
	if d == nil || !s.declared || s.Options.DeleteOnTermination || !l.parking(d).Subnets[s.Subnet] {
		return nil
	}
	var all []vpc.Interface
	for v := range l.enis.Owned {
		if v.Attachment == nil && v.Tags[slots.TagNodeENI] == s.NodeENI.UID {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return nil
	}
	parked := lifecycle.FindLeaks(all, l.world(), nil, l.Now()).Parked
	var wanted []slots.Slot
	for _, m := range l.members[s.NodeENI.UID] {
		if m.wanted && m.declared && m.mem.ENI == "" {
			wanted = append(wanted, *m.Slot)
		}
	}
	if v, ok := lifecycle.Moves(parked, wanted)[s.ID]; ok {
		return &v
	}
	return nil
}

var publicQuery = vpc.Query{Tags: map[string][]string{slots.TagManagedBy: {slots.ManagedBy}}}

// listPublic reads the ENIs of the public controller.
func (l *loop) listPublic() error {
	began := l.Now()
	list, err := l.EC2.Interfaces(l.ctx, publicQuery)
	if err != nil {
		return err
	}
	l.enis.SeePublic(began, list)
	l.public = slices.DeleteFunc(list, func(v vpc.Interface) bool { return v.Tags[slots.TagCluster] != "" })
	return nil
}

// relistPublic forgets the ENIs of the public controller that have ended, or been adopted.
func (l *loop) relistPublic() {
	began := l.Now()
	do(l, l.looks, vpc.PriorityBulk, func(ctx context.Context) ([]vpc.Interface, error) { return l.EC2.Interfaces(ctx, publicQuery) },
		func(list []vpc.Interface, err error) {
			if err == nil {
				l.enis.SeePublic(began, list)
				l.lookAtAll()
			}
		})
}
