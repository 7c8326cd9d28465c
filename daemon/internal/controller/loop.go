package controller

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/breaker"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/catalog"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/enis"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/once"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/queue"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/rivals"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// loop is one leadership. Only its goroutine uses it; others hand functions to it by post.
type loop struct {
	Options
	ctx     context.Context //nolint:containedctx // a leadership ends with it
	cluster string          // its UID
	began   time.Time

	inbox                  chan func()
	changes, looks, writes *queue.Pool

	enis    *enis.Store
	catalog *catalog.Catalog
	types   map[string]*vpc.InstanceType // nil while it is read
	nodes   map[string]*node
	decls   map[string]*decl
	// slots are all; members are the same by the UID of their NodeENI.
	slots   map[slots.ID]*slot
	members map[string]map[slots.ID]*slot

	dirtyNodes, dirtyDecls map[string]bool
	times                  queue.Times

	// gone are the memories of slots that ended: one that comes back goes on with its attempts.
	gone map[slots.ID]gone

	breakers breaker.Breakers
	rivals   *rivals.Rivals
	resync   bool                 // one is under way
	leaks    map[string]time.Time // when each leak was first seen; nil before the first resync
	public   []vpc.Interface      // the public controller's ENIs, at the begin
	said     once.Memory
}

type gone struct {
	mem     lifecycle.Memory
	attempt int // of the entry
	at      time.Time
}

// Keys of loop.times: a prefix with a name, or one of the others.
const (
	nodeKey   = "node/"
	declKey   = "nodeeni/"
	resyncKey = "resync"
	rivalKey  = "rival"
	turnKey   = "turn"
)

// turnEvery is how long the loop is silent at most, for the probe of its life.
const turnEvery = time.Minute

func newLoop(ctx context.Context, o Options) *loop {
	return &loop{
		Options: o, ctx: ctx, began: o.Now(), inbox: make(chan func(), 64),
		changes: queue.New(ctx, maxChanges), looks: queue.New(ctx, maxLooks), writes: queue.New(ctx, maxWrites),
		enis: enis.New(), catalog: catalog.New(), types: map[string]*vpc.InstanceType{},
		nodes: map[string]*node{}, decls: map[string]*decl{}, slots: map[slots.ID]*slot{}, members: map[string]map[slots.ID]*slot{},
		dirtyNodes: map[string]bool{}, dirtyDecls: map[string]bool{}, gone: map[slots.ID]gone{}, breakers: breaker.Breakers{}, rivals: rivals.New(ctx),
	}
}

// begin reads EC2 and the API server. It is false if ctx ended first.
func (l *loop) begin() bool {
	var owned []vpc.Interface
	var at time.Time
	ok := l.read() && l.until("read the cluster's UID", func() (err error) {
		l.cluster, err = l.Cluster.ClusterUID(l.ctx)
		return err
	}) && l.until("list the cluster's ENIs", func() (err error) {
		at = l.Now()
		owned, err = l.EC2.Interfaces(l.ctx, l.ownedQuery())
		return err
	})
	if !ok {
		return false
	}
	l.enis.SeeAll(at, owned)
	if !l.until("list the public controller's ENIs", l.listPublic) {
		return false
	}
	if !l.until("look for another controller", l.firstRival) {
		return false
	}
	l.Tally.Begin()
	l.Cluster.Take()
	l.lookAtAll()
	l.noteRival()
	l.finishResync(at, owned)
	l.times.Set(rivalKey, l.Now().Add(rivalEvery))
	l.times.Set(turnKey, l.Now().Add(turnEvery))
	return true
}

func (l *loop) ownedQuery() vpc.Query {
	return vpc.Query{Tags: map[string][]string{slots.TagCluster: {l.cluster}}}
}

// readEvery is how often read looks. Whoever follows the objects logs why they cannot be read.
const readEvery = 100 * time.Millisecond

// read waits until the cluster's objects were read as a whole; it is false if ctx ends first.
func (l *loop) read() bool {
	for {
		if _, err := l.Cluster.Snapshot(); err == nil {
			return true
		}
		if !backoff.Sleep(l.ctx, readEvery) {
			return false
		}
	}
}

// until tries again until there is no error; it is false if ctx ends first.
func (l *loop) until(doing string, try func() error) bool {
	retry := backoff.Backoff{First: time.Second, Cap: time.Minute}
	for l.ctx.Err() == nil {
		err := try()
		if err == nil {
			return true
		}
		wait := retry.Failed()
		l.Log.WithError(err).WithField("again", wait).Warn(doing + " before anything else: not possible yet")
		if !backoff.Sleep(l.ctx, wait) {
			break
		}
	}
	return false
}

func (l *loop) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()

	for {
		l.work()
		l.Tally.Turn(l.Now())
		timer.Stop()
		if next := l.times.Next(); !next.IsZero() {
			timer.Reset(max(next.Sub(l.Now()), 0))
		}
		select {
		case <-l.ctx.Done():
			return
		case f := <-l.inbox:
			f()
			l.drain()
		case <-l.Cluster.Changed():
			l.news(l.Cluster.Take())
		case <-timer.C:
		}
		for key := l.times.Due(l.Now()); key != ""; key = l.times.Due(l.Now()) {
			l.due(key)
		}
	}
}

// drain takes all that has come, so that a node is looked at once for many results.
func (l *loop) drain() {
	for {
		select {
		case f := <-l.inbox:
			f()
		default:
			return
		}
	}
}

func (l *loop) due(key string) {
	switch {
	case key == resyncKey:
		l.beginResync()
	case key == turnKey:
		l.times.Set(turnKey, l.Now().Add(turnEvery))
	case key == rivalKey:
		l.askRival()
	case strings.HasPrefix(key, nodeKey):
		l.dirtyNodes[strings.TrimPrefix(key, nodeKey)] = true
	case strings.HasPrefix(key, declKey):
		l.dirtyDecls[strings.TrimPrefix(key, declKey)] = true
	}
}

// work looks at everything that needs it, in an order that does not depend on chance.
func (l *loop) work() {
	for len(l.dirtyNodes)+len(l.dirtyDecls) > 0 && l.ctx.Err() == nil {
		names := slices.Sorted(maps.Keys(l.dirtyNodes))
		clear(l.dirtyNodes)
		for _, name := range names {
			l.lookAtNode(name)
		}
		names = slices.Sorted(maps.Keys(l.dirtyDecls))
		clear(l.dirtyDecls)
		for _, name := range names {
			l.lookAtDecl(name)
		}
	}
}

func (l *loop) news(n fleet.News) {
	for _, name := range n.NodeENIs {
		l.readDecl(name)
	}
	for _, name := range n.Nodes {
		l.dirtyNodes[name] = true
	}
}

// lookAtAll marks everything that there is.
func (l *loop) lookAtAll() {
	all, err := l.Cluster.Snapshot()
	if err != nil {
		return // it succeeded once, and does not fail later
	}
	for name := range all.NodeENIs {
		l.readDecl(name)
		l.dirtyDecls[name] = true
	}
	for name := range l.decls {
		l.readDecl(name)
		l.dirtyDecls[name] = true
	}
	for _, names := range []func(func(string) bool){maps.Keys(all.Nodes), maps.Keys(all.States), maps.Keys(l.nodes)} {
		for name := range names {
			l.dirtyNodes[name] = true
		}
	}
	l.recallOwned()
}

// post hands a function to the loop's goroutine; it is lost after ctx.
func (l *loop) post(f func()) {
	select {
	case l.inbox <- f:
	case <-l.ctx.Done():
	}
}

// do runs a call in the pool, and then hands its result to the loop's goroutine.
func do[T any](l *loop, pool *queue.Pool, p vpc.Priority, call func(context.Context) (T, error), then func(T, error)) {
	pool.Do(-int(p), func(ctx context.Context) {
		v, err := call(vpc.WithPriority(ctx, p))
		l.post(func() { then(v, err) })
	})
}

// write is do for a call to the API server.
func (l *loop) write(call func(context.Context) error, then func(error)) {
	do(l, l.writes, vpc.PrioritySingle, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) }, func(_ struct{}, err error) { then(err) })
}
