package controller

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// view is one controller's Cluster.
type view struct {
	*api
	fence   func() error
	changed chan struct{}
	news    map[string]map[string]bool
	seen    map[string]int
	enis    map[string]*eniObject
	nodes   map[string]*nodeObject
	states  map[string]*stateObject
}

func (a *api) view(fence func() error) *view {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := &view{
		api: a, fence: fence, changed: make(chan struct{}, 1), news: map[string]map[string]bool{"NodeENI": {}, "Node": {}, "State": {}}, seen: map[string]int{},
		enis: maps.Clone(a.enis), nodes: maps.Clone(a.nodes), states: maps.Clone(a.states),
	}
	a.views = append(a.views, v)
	return v
}

// learn takes the present object, if the view does not know a newer one. Hold mu.
func (v *view) learn(kind, name string, version int) {
	if v.seen[kind+name] >= version {
		return
	}
	v.seen[kind+name] = v.version
	switch kind {
	case "NodeENI":
		show(v.enis, v.api.enis, name)
	case "Node":
		show(v.nodes, v.api.nodes, name)
	default:
		show(v.states, v.api.states, name)
	}
	v.news[kind][name] = true
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

func show[T any](to, from map[string]*T, name string) {
	if o := from[name]; o != nil {
		to[name] = o
	} else {
		delete(to, name)
	}
}

func (v *view) ClusterUID(context.Context) (string, error) { return "cluster-1", nil }

func (v *view) Snapshot() (fleet.Snapshot, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return fleet.Snapshot{NodeENIs: maps.Clone(v.enis), Nodes: maps.Clone(v.nodes), States: maps.Clone(v.states)}, nil
}

func (v *view) NodeENI(name string) *eniObject {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.enis[name]
}

func (v *view) Node(name string) *nodeObject {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.nodes[name]
}

func (v *view) State(name string) *stateObject {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.states[name]
}

func (v *view) Changed() <-chan struct{} { return v.changed }

func (v *view) Take() fleet.News {
	v.mu.Lock()
	defer v.mu.Unlock()
	nodes := v.news["Node"]
	maps.Copy(nodes, v.news["State"])
	out := fleet.News{NodeENIs: slices.Sorted(maps.Keys(v.news["NodeENI"])), Nodes: slices.Sorted(maps.Keys(nodes))}
	v.news = map[string]map[string]bool{"NodeENI": {}, "Node": {}, "State": {}}
	return out
}

func (v *view) Rival(context.Context) (*fleet.Rival, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.denied {
		return nil, fleet.ErrForbidden
	}
	return v.rival, nil
}

func (v *view) Tell(e fleet.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, e)
}

// write makes a write under the fence. do returns the kind and name of the object that it changed.
func (v *view) write(ctx context.Context, doing string, do func() (kind, name string, err error)) error {
	before, after := v.fault(doing)
	if before != nil {
		return before
	}
	if v.latency > 0 {
		time.Sleep(v.latency)
	}
	if err := errors.Join(ctx.Err(), v.fence()); err != nil {
		return err
	}
	v.mu.Lock()
	kind, name, err := do()
	if err == nil {
		v.writes[doing]++
		v.onWrite(doing, name)
		v.learn(kind, name, v.version)
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	if kind == "State" {
		v.onState(name)
	}
	return after
}

func (v *view) WriteSpec(ctx context.Context, node string, seen *stateObject, spec v1alpha1.ENINodeStateSpec) error {
	return v.write(ctx, "spec", func() (string, string, error) {
		now := v.api.states[node]
		switch {
		case seen == nil && now != nil, seen != nil && now != nil && !agrees(now, seen):
			return "", "", fleet.ErrConflict
		case v.api.nodes[node] == nil, seen != nil && now == nil:
			return "", "", fleet.ErrGone
		case now == nil:
			now = &stateObject{Name: node, UID: "state-" + v.stamp(), Known: true, Is: fleet.State{Owner: v.api.nodes[node].UID}}
		}
		o := *now
		o.Is = clone(o.Is)
		o.Is.Spec = clone(spec)
		o.Generation++
		v.putState(&o)
		return "State", node, nil
	})
}

func agrees(a, b *stateObject) bool {
	return a.UID == b.UID && a.Generation == b.Generation && slices.Equal(a.Is.Released, b.Is.Released)
}

func (v *view) Confirm(_ context.Context, node string, seen *stateObject) error {
	if before, _ := v.fault("confirm"); before != nil {
		return before
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.api.states[node]
	if (now == nil) != (seen == nil) || now != nil && !agrees(now, seen) {
		return fleet.ErrConflict
	}
	return nil
}

func (v *view) DeleteState(ctx context.Context, node, uid string) error {
	return v.write(ctx, "delete", func() (string, string, error) {
		if now := v.api.states[node]; now != nil && now.UID == uid {
			delete(v.api.states, node)
			v.stamp()
			v.tell("State", node, v.version)
		}
		return "State", node, nil
	})
}

func (v *view) patch(ctx context.Context, doing string, seen *eniObject, edit func(*v1alpha1.NodeENI)) error {
	return v.write(ctx, doing, func() (string, string, error) {
		now := v.api.enis[seen.Name]
		switch {
		case now == nil || now.UID != seen.UID:
			return "", "", fleet.ErrGone
		case now.Version != seen.Version:
			return "", "", fleet.ErrConflict
		}
		o := *now
		o.Is = clone(o.Is)
		edit(&o.Is)
		v.putNodeENI(&o)
		return "NodeENI", o.Name, nil
	})
}

func (v *view) WriteStatus(ctx context.Context, seen *eniObject, attachments []v1alpha1.ENIAttachment) error {
	return v.patch(ctx, "status", seen, func(o *v1alpha1.NodeENI) { o.Status.Attachments = clone(attachments) })
}

func (v *view) AddFinalizer(ctx context.Context, seen *eniObject) error {
	return v.patch(ctx, "finalizer", seen, func(o *v1alpha1.NodeENI) { o.Finalizers = append(o.Finalizers, fleet.Finalizer) })
}

func (v *view) RemoveFinalizer(ctx context.Context, seen *eniObject) error {
	err := v.patch(ctx, "finalizer", seen, func(o *v1alpha1.NodeENI) {
		o.Finalizers = slices.DeleteFunc(o.Finalizers, func(s string) bool { return s == fleet.Finalizer })
	})
	if errors.Is(err, fleet.ErrGone) {
		return nil
	}
	return err
}

func (v *view) SetCleanupStart(ctx context.Context, seen *eniObject, at time.Time) error {
	return v.patch(ctx, "annotation", seen, func(o *v1alpha1.NodeENI) {
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[fleet.CleanupStart] = at.UTC().Format(time.RFC3339)
	})
}
