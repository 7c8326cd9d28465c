// Package report publishes this node's ENINodeState, and Events on NodeENIs, the Node and pods.
package report

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	objectmeta "k8s.io/client-go/metadata"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/eventqueue"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// settleWithin is how long after the start Views with unanswered sources are skipped: gaps in them are no news.
	settleWithin = 30 * time.Second
	// writeApart is the least time between two writes of the ENINodeState.
	writeApart = time.Second
)

// Options configure a Reporter. Node, Now and Log are needed.
type Options struct {
	// Node returns the own Node; false while it is not known to exist.
	Node func() (client.NodeRef, bool)
	Now  func() time.Time
	Log  logrus.FieldLogger
	// Reported is called when the ENINodeState has a status of the protocol with the lifecycle controller, with the ENIs that it says are
	// released: at the start an earlier daemon's, else one that says no more than the protocol. Somebody else then watches the object, and
	// calls Gone. view is the Number of the View that the status shows, 0 before the first. Nil: there is no such controller.
	Reported func(released []v1alpha1.ReleasedENI, view uint64)
}

// Reporter publishes this node's ENINodeState and Events. Its methods are safe for concurrent use.
//
// It writes the ENINodeState when it differs from the version last written or read, and reads it at the start and after a deletion.
// Only the last of several Views counts. Events wait in a queue while the API server takes none; a full queue drops the oldest.
// Neither waits for the other.
type Reporter struct {
	Options
	state  stateWriter
	watch  objectmeta.Interface
	events *eventqueue.Queue
	// changed holds a token when there is work, deleted when the ENINodeState may be gone.
	changed, deleted chan struct{}
	// gone holds a token when the ENINodeState was deleted.
	gone  chan struct{}
	began time.Time

	mu      sync.Mutex
	settled bool
	view    *view.View
	// restart is the outcome of the device plugin's last restart.
	restart *view.RestartDone
	// history is nil until the ENINodeState was read at the start.
	history *history
	// late is until when a write of an earlier daemon, which was killed, may land.
	late time.Duration
}

// lateWrites is above the API server's time limit of a request (--request-timeout, 1 min).
const lateWrites = 65 * time.Second

// New returns a Reporter that sends nothing until Run.
func New(c *client.Client, o Options) *Reporter {
	return &Reporter{
		Options: o, state: stateWriter{client: c.NodeENIs, name: c.NodeName}, watch: c.WatchMetadata,
		events:  eventqueue.New(eventqueue.Options{Core: c.Core, Component: client.FieldManager, Host: c.NodeName, Now: o.Now, Log: o.Log}),
		changed: make(chan struct{}, 1), deleted: make(chan struct{}, 1), gone: make(chan struct{}, 1), began: o.Now(), late: lateWrites,
	}
}

// Observe takes the View of a finished Sync. It does not block.
func (r *Reporter) Observe(v view.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := v.Did.Restart
	if done != nil {
		r.restart = done
	}
	if !r.settled && (unsettled(v) || r.Reported != nil && v.Unlisted) && r.Now().Sub(r.began) < settleWithin {
		signal(r.changed) // the protocol waits for the Node only
		return
	}
	r.settled = true
	v.Did.Restart = r.restart
	r.view = &v
	signal(r.changed)
	if r.history != nil {
		v.Did.Restart = done
		r.queueEvents(v)
	}
}

// unsettled: a source has not answered yet, or the kubelet has not taken the daemon's offer.
func unsettled(v view.View) bool {
	return v.Plugin.State == view.PluginUnknown && !v.Offer.Own() || v.Offer.State == view.OfferWaiting || v.Offer.Mode != "" && v.Offer.Wanted == "" ||
		slices.ContainsFunc(v.Inventory.Problems, func(p nodestate.Problem) bool { return p.Reason == reason.NodeENIsUnreadable })
}

// Dropped counts the Events given up.
func (r *Reporter) Dropped() uint64 { return r.events.Dropped() }

// Run reports until ctx ends. Call it once.
func (r *Reporter) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { r.writeStates(ctx) })
	wg.Go(func() { r.events.Run(ctx) })
	wg.Go(func() { r.followState(ctx) })
	wg.Wait()
}

// queueEvents queues the Events for a View. Hold mu.
func (r *Reporter) queueEvents(v view.View) {
	node, ok := r.Node()
	if !ok {
		node = client.NodeRef{Name: r.state.name}
	}
	for _, e := range r.history.events(node, v) {
		r.events.Add(eventqueue.Event{About: e.about, Kind: e.kind, Reason: string(e.reason), Message: e.message})
	}
}

// begin learns from the last status which Events an earlier daemon sent. Only the first call counts.
func (r *Reporter) begin(before v1alpha1.ENINodeStateStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.history != nil {
		return
	}
	t := historyFrom(before)
	r.history = &t
	if r.view != nil {
		r.queueEvents(*r.view)
	}
}

func (r *Reporter) latest() *view.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view
}

func (r *Reporter) writeStates(ctx context.Context) {
	failing := client.NewFailures(r.Log, "ENINodeState")
	written, ok := r.readFirst(ctx, failing)
	var late <-chan time.Time
	if r.Reported != nil { // the controller waits for the status
		late = time.After(r.late)
	}
	for ok {
		after, err := r.writeState(ctx, &written)
		if err != nil {
			after = failing.Failed(ctx, err)
		} else if after > 0 {
			failing.Over()
		}
		if after > 0 {
			if !backoff.Sleep(ctx, after) {
				return
			}
			if err != nil {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-r.deleted:
			ok = r.reread(ctx, &written, failing)
		case <-late:
			ok = r.reread(ctx, &written, failing)
		}
	}
}

// readFirst reads an earlier daemon's status. Events wait for it at most settleWithin: some may then be repeated.
func (r *Reporter) readFirst(ctx context.Context, failing *client.Failures) (v1alpha1.ENINodeStateStatus, bool) {
	for {
		before, err := r.state.read(ctx)
		if err == nil {
			failing.Over()
			r.begin(before)
			return before, true
		}
		after := failing.Failed(ctx, err)
		if r.Now().Sub(r.began) >= settleWithin {
			r.begin(v1alpha1.ENINodeStateStatus{})
		}
		if !backoff.Sleep(ctx, after) {
			return v1alpha1.ENINodeStateStatus{}, false
		}
	}
}

// reread looks at the ENINodeState. The next writeState writes one again that is missing, or that another daemon has written.
func (r *Reporter) reread(ctx context.Context, written *v1alpha1.ENINodeStateStatus, failing *client.Failures) bool {
	now, err := r.state.read(ctx)
	switch {
	case err != nil:
		signal(r.deleted)
		return backoff.Sleep(ctx, failing.Failed(ctx, err))
	case r.state.exists:
		*written = now
	}
	failing.Over()
	return true
}

// writeState writes news, and returns how long to wait before the next write; 0 if it wrote nothing.
func (r *Reporter) writeState(ctx context.Context, written *v1alpha1.ENINodeStateStatus) (time.Duration, error) {
	view := r.latest()
	node, known := r.Node()
	if !known {
		return 0, nil
	}
	status, shown := *written, uint64(0)
	switch {
	case r.Reported != nil && written.Protocol != v1alpha1.Protocol:
		status.Protocol = v1alpha1.Protocol
	case view == nil:
		r.reported(node, status, 0)
		return 0, nil
	default:
		status, shown = statusOf(*view, *written), view.Number
		if r.Reported != nil {
			status.Protocol, status.Released = v1alpha1.Protocol, releasedENIs(*view)
		}
	}
	if r.state.belongs(node) && sameState(status, *written) {
		r.reported(node, status, shown)
		return 0, nil
	}
	first := written.Protocol != status.Protocol
	if err := r.state.write(ctx, node, status); err != nil {
		return 0, err
	}
	*written = status
	r.reported(node, status, shown)
	if first {
		signal(r.changed) // the View is still to be written
	}
	return writeApart, nil
}

func (r *Reporter) reported(node client.NodeRef, status v1alpha1.ENINodeStateStatus, shown uint64) {
	if r.Reported != nil && r.state.belongs(node) && status.Protocol == v1alpha1.Protocol {
		r.Reported(status.Released, shown)
	}
}

// Gone says that the ENINodeState was deleted, or may have been.
func (r *Reporter) Gone() { signal(r.gone) }

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
