// Package nodeeni follows the NodeENIs that the API server has for this node.
//
// A missing answer is unknown, never absent: no failed call ever looks like a removal.
package nodeeni

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Options configure a Source. Only Instance is optional.
type Options struct {
	// Lookup goes into every Snapshot.
	Lookup inventory.Lookup
	// Instance returns the id of this EC2 instance, "" while unknown; nil if it never is known.
	Instance func() string
	// StateGone is called when the own ENINodeState is gone, or may have been for a moment. It must return at once. Nil: nobody asks.
	// Only inventory.LookupEntries looks.
	StateGone func()
	Now       func() time.Time
	Log       logrus.FieldLogger
}

// Source has the API server's NodeENIs for this node. It needs one watch of all NodeENIs and one of the own Node, and no other request
// while these last. With inventory.LookupEntries it watches the own ENINodeState instead of the NodeENIs. Its methods are safe for concurrent use.
//
// Each watch, and each replacement of a lost one, begins with a quorum read. An answer stays true until the API server gives another:
// no error takes anything away, however long it lasts.
type Source struct {
	client   *client.Client
	lookup   inventory.Lookup
	instance func() string
	health   *health
	now      func() time.Time
	// stateGone is Options.StateGone.
	stateGone func()
	retry     wait.Backoff

	mu         sync.Mutex
	wake, news func()
	// entries are all NodeENIs, by name; nil until read as a whole.
	entries map[string]*entry
	// own is the own ENINodeState, nil until read; silentSince is when the controller's list was last known, or looked for at first.
	own         *ownState
	silentSince time.Time
	reported    bool
	released    []v1alpha1.ReleasedENI
	shown       uint64
	node        nodeFacts
	// nodeRead: node is an answer of the API server.
	nodeRead bool
}

// New returns a Source that knows nothing until Run.
func New(c *client.Client, o Options) *Source {
	if o.Instance == nil {
		o.Instance = func() string { return "" }
	}
	if o.StateGone == nil {
		o.StateGone = func() {}
	}
	s := &Source{
		now: o.Now, stateGone: o.StateGone,
		client: c, lookup: o.Lookup, instance: o.Instance, health: newHealth(o.Now, o.Log),
		retry: client.NewRetry(),
		wake:  func() {}, news: func() {},
	}
	s.health.recovered = s.recovered
	return s
}

func (s *Source) recovered() {
	s.mu.Lock()
	news := s.news
	s.mu.Unlock()
	news()
}

// Run follows the API server until ctx ends; call it once. It calls wake when List's result changes, and news when the own Node's allocatable
// resources change or a trouble with the API server ends. Both must return at once.
func (s *Source) Run(ctx context.Context, wake, news func()) {
	s.mu.Lock()
	s.wake, s.news = wake, news
	s.mu.Unlock()

	report := func(p part) func(error) {
		return func(err error) {
			if ctx.Err() == nil { // else the request was ended from here
				s.health.report(p, err)
			}
		}
	}
	objects := nodeENIs{client: s.client.WatchNodeENIs, trim: trimmer{node: s.client.NodeName, state: s.byEntries()}, report: report(partNodeENIs)}
	node := ownNode{client: s.client.WatchCore, name: s.client.NodeName, report: report(partNodes)}
	var wg sync.WaitGroup
	wg.Go(func() { s.health.run(ctx) })
	if s.byEntries() {
		wg.Go(func() { s.reflect(ctx, "eninodestate", objects.listWatch(), &item{}, ownStore{s}) })
	} else {
		wg.Go(func() { s.reflect(ctx, "nodeenis", objects.listWatch(), &item{}, nodeENIStore{s}) })
	}
	wg.Go(func() { s.reflect(ctx, "node", node.listWatch(), &corev1.Node{}, nodeStore{s}) })
	wg.Wait()
}

func (s *Source) reflect(ctx context.Context, name string, lw *cache.ListWatch, example any, store cache.ReflectorStore) {
	cache.NewReflectorWithOptions(lw, example, store, cache.ReflectorOptions{Name: name, Backoff: &s.retry}).RunWithContext(ctx)
}

// List returns the NodeENIs that select this node. An error means that nothing is known: the NodeENIs or the own Node were never read,
// or that Node does not exist or is another instance's (*OtherInstanceError).
func (s *Source) List() (inventory.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.nodeRead && !s.node.exists():
		return inventory.Snapshot{}, fmt.Errorf("read Node %q: %w", s.client.NodeName, errNoNode)
	case s.byEntries() && s.own == nil:
		return inventory.Snapshot{}, fmt.Errorf("read ENINodeState %q: %w", s.client.NodeName, s.health.why())
	case !s.byEntries() && s.entries == nil:
		return inventory.Snapshot{}, fmt.Errorf("list NodeENIs: %w", s.health.why())
	case !s.nodeRead:
		return inventory.Snapshot{}, fmt.Errorf("read Node %q: %w", s.client.NodeName, s.health.why())
	}
	if err := s.otherInstance(); err != nil {
		return inventory.Snapshot{}, err
	}
	if s.byEntries() {
		return s.listEntries(), nil
	}
	snap := inventory.Snapshot{Complete: true, Lookup: s.lookup, Elsewhere: s.elsewhere, Objects: []v1alpha1.NodeENI{}, Problems: []nodestate.Problem{}}
	for _, name := range slices.SortedFunc(maps.Keys(s.entries), cmp.Compare[string]) {
		d := s.entries[name]
		if !d.selectedBy(s.node) {
			continue
		}
		if d.fault != "" {
			snap.Problems = append(snap.Problems, d.problem())
		}
		if d.known {
			snap.Objects = append(snap.Objects, d.object)
		} else {
			snap.Unread = append(snap.Unread, name)
		}
	}
	return snap, nil
}

// byEntries: the controller's list in the own ENINodeState names the ENIs.
func (s *Source) byEntries() bool { return s.lookup == inventory.LookupEntries }

// elsewhere says whether a NodeENI of that name exists and does not select this node.
func (s *Source) elsewhere(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.entries[name]
	return d != nil && s.node.exists() && !d.selectedBy(s.node)
}

// API returns the state of the API server.
func (s *Source) API() APIState { return s.health.get() }

// Node returns the own Node; false unless it is known to exist and to be this machine's.
func (s *Source) Node() (client.NodeRef, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.ref, s.node.exists() && s.otherInstance() == nil
}

// Label returns a label of the own Node, "" for none; false while that Node is not known to exist and to be this machine's.
func (s *Source) Label(key string) (value string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.labels[key], s.node.exists() && s.otherInstance() == nil
}

// otherInstance is an error if the Node is another machine's. Hold mu.
func (s *Source) otherInstance() error {
	if own := s.instance(); own != "" && s.node.instance != "" && own != s.node.instance {
		return &OtherInstanceError{Node: s.client.NodeName, NodeInstance: s.node.instance, Instance: own}
	}
	return nil
}

func (s *Source) setNode(n nodeFacts) {
	var err error
	if !n.exists() {
		err = errNoNode
	}
	s.health.report(partOwnNode, err)

	s.mu.Lock()
	before, first := s.node, !s.nodeRead
	s.node, s.nodeRead = n, true
	wake, news := s.wake, s.news
	s.mu.Unlock()
	if first || !before.sameForSelection(n) {
		wake()
	}
	if !first && !before.sameAllocatable(n) {
		news()
	}
}

// change changes the NodeENIs, and wakes if that changes List.
func (s *Source) change(f func() (seen bool)) {
	s.mu.Lock()
	seen := f()
	wake := s.wake
	s.mu.Unlock()
	if seen {
		wake()
	}
}

// differ says whether List tells two versions apart; nil is no object.
func (s *Source) differ(before, after *entry) bool {
	if before == after || !s.node.exists() {
		return false
	}
	was, is := before.selectedBy(s.node), after.selectedBy(s.node)
	return was != is || is && !before.same(after)
}

type nodeENIStore struct{ s *Source }

func (n nodeENIStore) Add(o any) error { return n.Update(o) }

func (n nodeENIStore) Update(o any) error {
	it, ok := o.(*item)
	if !ok {
		return fmt.Errorf("%w: %T instead of a NodeENI", errMalformed, o)
	}
	n.s.change(func() bool {
		before := n.s.entries[it.Name]
		after := newEntry(before, it)
		n.s.entries[it.Name] = after
		return n.s.differ(before, after)
	})
	return nil
}

func (n nodeENIStore) Delete(o any) error {
	it, ok := o.(*item)
	if !ok {
		return fmt.Errorf("%w: %T instead of a NodeENI", errMalformed, o)
	}
	n.s.change(func() bool {
		before := n.s.entries[it.Name]
		delete(n.s.entries, it.Name)
		return n.s.differ(before, nil)
	})
	return nil
}

// Replace alone makes NodeENIs known at first.
func (n nodeENIStore) Replace(all []any, _ string) error {
	items := make([]*item, len(all))
	for i, o := range all {
		it, ok := o.(*item)
		if !ok {
			return fmt.Errorf("%w: %T instead of a NodeENI", errMalformed, o)
		}
		items[i] = it
	}
	n.s.health.synced()
	n.s.change(func() bool { return n.s.replace(items) })
	return nil
}

func (s *Source) replace(items []*item) (seen bool) {
	before := s.entries
	seen = before == nil
	s.entries = make(map[string]*entry, len(items))
	for _, it := range items {
		d := newEntry(before[it.Name], it)
		s.entries[it.Name] = d
		seen = seen || s.differ(before[it.Name], d)
	}
	for name, d := range before {
		if s.entries[name] == nil {
			seen = seen || s.differ(d, nil)
		}
	}
	return seen
}

func (nodeENIStore) Resync() error { return nil }
