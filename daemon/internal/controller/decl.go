package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/entries"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/once"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/pace"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/parking"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/queue"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/told"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// decl is a NodeENI.
type decl struct {
	object *fleet.Object[v1alpha1.NodeENI]
	// want is the NodeENI without its status.
	want v1alpha1.NodeENI
	// busy: a call about it is under way. retryAt is when the next may be made.
	busy    bool
	retryAt time.Time
	retry   pace.Writes
	// statusAt is when its status was last written, updated the newest lastUpdated that is known to be nobody's news.
	statusAt, updated time.Time
	left              []string // the ENIs of slots that a person has abandoned
	// opening counts its slots that have no ENI attached yet.
	opening int
	said    once.Memory
}

type nodeENI = v1alpha1.NodeENI

func (d *decl) hasFinalizer() bool { return slices.Contains(d.object.Is.Finalizers, fleet.Finalizer) }

// parking says which ENIs of the NodeENI outlive their instances.
func (l *loop) parking(d *decl) parking.Rule {
	if d.object.Deleting {
		return parking.Rule{}
	}
	return parking.Of(d.object.Is, d.object.Known && d.object.Fault == "", l.catalog.Known())
}

// readDecl takes a NodeENI from the cluster, and marks the nodes that it concerns.
func (l *loop) readDecl(name string) {
	o := l.Cluster.NodeENI(name)
	d := l.decls[name]
	if o == nil {
		if d != nil {
			l.dirtySlotsOf(d)
			delete(l.decls, name)
		}
		return
	}
	if d != nil && d.object.UID != o.UID {
		l.dirtySlotsOf(d)
		d = nil
	}
	l.dirtyDecls[name] = true
	if d == nil {
		d = &decl{updated: slots.LastUpdated(o.Is.Status.Attachments)}
		l.decls[name] = d
	} else if outside.Same(d.object, o) {
		d.object = o
		l.watchUpdated(d)
		return
	}
	before, first := d.want.Spec.NodeSelector, d.object == nil
	d.object, d.want = o, o.Is
	d.want.Status = v1alpha1.NodeENIStatus{}
	d.want.Name, d.want.UID, d.want.Generation = o.Name, o.Is.UID, o.Generation
	l.watchUpdated(d)
	l.dirtySlotsOf(d)
	all, err := l.Cluster.Snapshot()
	if err != nil {
		return
	}
	for _, n := range all.Nodes {
		if slots.Selects(d.want.Spec.NodeSelector, n.Is.Labels) || !first && slots.Selects(before, n.Is.Labels) {
			l.dirtyNodes[n.Name] = true
		}
	}
}

func (l *loop) dirtySlotsOf(d *decl) {
	if d.object == nil {
		return
	}
	for _, s := range l.members[d.object.UID] {
		l.dirtyNodes[s.Node] = true
	}
}

// declOf returns the NodeENI of a slot; nil if it is gone.
func (l *loop) declOf(s *slot) *decl { return l.declared(s.NodeENI) }

func (l *loop) declared(e slots.NodeENI) *decl {
	if d := l.decls[e.Name]; d != nil && d.object.UID == e.UID {
		return d
	}
	return nil
}

// lookAtDecl looks at a NodeENI as a whole: at its status, and at the end of its finalizer.
func (l *loop) lookAtDecl(name string) {
	d := l.decls[name]
	if d == nil {
		return
	}
	if d.object.Fault == "" && l.parking(d).Unsure { // perhaps no Node wants the answer, but ENIs of earlier ones
		l.ask(declKey+name, l.catalog.Ask(l.Now(), []nodeENI{d.want}))
	}
	if d.busy || l.paused() {
		return
	}
	now := l.Now()
	o := d.object
	switch {
	case o.Fault != "":
		if d.said.Once("unreadable", o.Version) {
			l.tell(true, o.Name, o.UID, "", told.UnreadableNodeENI, fmt.Sprintf("NodeENI %s cannot be read, so its ENIs stay as they are: %s", name, o.Fault))
		}
		return
	case now.Before(d.retryAt):
		l.times.Set(declKey+name, d.retryAt)
		return
	case o.Deleting && d.hasFinalizer():
		l.finish(d)
	}
	if !d.busy && (!o.Deleting || len(l.members[o.UID]) > 0) {
		l.writeStatus(d, now)
	}
}

// change runs a write about a NodeENI. Afterwards it is looked at again, with the nodes of its slots.
func (l *loop) change(d *decl, call func(context.Context, *fleet.Object[v1alpha1.NodeENI]) error) {
	o := d.object
	d.busy = true
	l.write(func(ctx context.Context) error { return call(ctx, o) }, func(err error) {
		d.busy = false
		d.retryAt = l.again(&d.retry, err, logrus.Fields{"nodeeni": o.Name}, "NodeENI not changed; it is tried again")
		l.readDecl(o.Name)
		l.dirtyDecls[o.Name] = true
	})
}

// finish removes the finalizer of a deleted NodeENI once nothing of it is left.
func (l *loop) finish(d *decl) {
	o := d.object
	if o.Is.Annotations[fleet.CleanupStart] == "" {
		l.change(d, func(ctx context.Context, o *fleet.Object[v1alpha1.NodeENI]) error {
			return l.Cluster.SetCleanupStart(ctx, o, l.Now())
		})
		return
	}
	left := l.members[o.UID]
	if slots.Abandoned(o.Is) {
		if d.said.Once("abandoned", "") {
			l.tell(true, o.Name, o.UID, "", lifecycle.Abandoned, abandoned(left, d.left))
		}
		l.change(d, l.Cluster.RemoveFinalizer)
		return
	}
	if len(left) > 0 {
		return
	}
	d.busy = true
	began := l.Now()
	q := l.ownedQuery()
	q.Tags[slots.TagNodeENI] = []string{o.UID}
	ask := func(ctx context.Context) ([]vpc.Interface, error) { return l.EC2.Interfaces(ctx, q) }
	do(l, l.looks, vpc.PriorityRelease, ask, func(list []vpc.Interface, err error) {
		d.busy = false
		l.dirtyDecls[o.Name] = true
		l.enis.See(began, list...)
		shown := 0
		for i := range list {
			if _, there := l.enis.ENI(list[i].ID); there || list[i].Unreadable != nil {
				shown++
			}
		}
		l.recallOwned()
		if err != nil || shown > 0 || len(l.members[o.UID]) > 0 {
			d.retryAt = l.Now().Add(5 * pace.Retry)
			return
		}
		l.change(d, l.Cluster.RemoveFinalizer)
	})
}

func abandoned(left map[slots.ID]*slot, list []string) string {
	for _, s := range left {
		if s.mem.ENI != "" {
			list = append(list, fmt.Sprintf("%s on node %s", s.mem.ENI, s.Node))
		}
	}
	return told.LeftBehind(list)
}

// writeStatus writes the public status, on change only and not too often.
func (l *loop) writeStatus(d *decl, now time.Time) {
	o := d.object
	if next := d.statusAt.Add(statusEvery); now.Before(next) {
		l.times.Set(declKey+o.Name, next)
		return
	}
	members := l.members[o.UID]
	all := make([]slots.Entry, 0, len(members))
	for _, s := range members {
		all = append(all, slots.Entry{Node: s.Node, AttachmentEntry: s.present()})
	}
	slices.SortFunc(all, func(a, b slots.Entry) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Slot, b.Slot)) })
	all = entries.Public(all, o.Name, o.Is.Status.Attachments, l.AdoptPublic, l.enis.ENI)
	list, truncated, changed := slots.Status(o.Is.Status.Attachments, all, now)
	if truncated && d.said.Once("truncated", "") {
		l.tell(false, o.Name, o.UID, "", told.StatusTruncated,
			fmt.Sprintf("status.attachments lists %d of %d attachments; kubectl get ens has all", len(list), len(members)))
	}
	if !changed {
		return
	}
	d.statusAt = now
	for i := range list {
		d.updated = queue.Later(d.updated, list[i].LastUpdated.Time)
	}
	l.change(d, func(ctx context.Context, o *fleet.Object[v1alpha1.NodeENI]) error {
		return l.Cluster.WriteStatus(ctx, o, list)
	})
}
