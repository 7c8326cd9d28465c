// Package fleet is the controller's view of a whole cluster: its NodeENIs, Nodes and ENINodeStates, the writes to them, and the election of
// the one controller that may write.
//
// A missing answer is unknown, never absent: no failed call ever looks like a removal.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/eventqueue"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Limits of the controller's requests. 15,000 slots take some 60,000 writes at 4 mutating EC2 calls a second, 48 writes a second.
const (
	requestsPerSecond = 100
	requestBurst      = 200
)

var (
	// ErrUnknown means: a kind was never read as a whole.
	ErrUnknown = errors.New("not read yet")
	// ErrConflict means: the object has changed since it was seen. Look at it again.
	ErrConflict = errors.New("the object has changed since it was seen")
	// ErrGone means: the object, or the one with that UID, does not exist.
	ErrGone = errors.New("the object does not exist")
	// ErrRefused means: the API server finds a fault with the object; the same write fails again.
	ErrRefused = errors.New("the API server refuses the object")
	// ErrNotLeader means: this process does not surely hold the Lease, so that nothing was sent.
	ErrNotLeader = errors.New("not the leader")
	// ErrForbidden means: a permission is missing.
	ErrForbidden = errors.New("no permission")
)

// Options configure a Fleet. All are needed.
type Options struct {
	// Namespace is the pod's: the Lease lies there.
	Namespace string
	// Identity names this process to people, such as the pod's name. The Lease's holder is made of it and of a random part.
	Identity string
	Now      func() time.Time
	Log      logrus.FieldLogger
}

// Fleet follows and writes the objects of a cluster. Its methods are safe for concurrent use.
type Fleet struct {
	options Options
	// core and objects call; election has a limit of its own, so that no crowd of writes keeps a renewal waiting.
	core, election kubernetes.Interface
	objects        rest.Interface
	watchCore      rest.Interface
	watchObjects   rest.Interface
	holder         string
	lease          lease
	rivals         rivals
	events         *eventqueue.Queue

	nodeENIs *store[v1alpha1.NodeENI]
	nodes    *store[Node]
	states   *store[State]
	news     news
}

// Connect sends nothing yet. Config.NodeName is not needed. The error wraps client.ErrNoClient and its cause.
func Connect(c client.Config, o Options) (*Fleet, error) {
	config, err := client.Configure(c)
	if err != nil {
		return nil, err
	}
	f, err := newFleet(config, o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", client.ErrNoClient, err)
	}
	return f, nil
}

func newFleet(config *rest.Config, o Options) (*Fleet, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = requestsPerSecond, requestBurst
	c, err := client.New(config, "")
	if err != nil {
		return nil, err
	}
	calm := rest.CopyConfig(config)
	calm.Timeout = electionTimeout
	election, err := kubernetes.NewForConfig(calm)
	if err != nil {
		return nil, err
	}
	f := &Fleet{
		options: o, core: c.Core, election: election, objects: c.NodeENIs, watchCore: c.WatchCore, watchObjects: c.WatchNodeENIs,
		holder: newHolder(o.Identity), news: newNews(),
	}
	f.events = eventqueue.New(eventqueue.Options{Core: f.core, Component: fieldManager, Host: o.Identity, Now: o.Now, Log: o.Log})
	f.nodeENIs = newStore(v1alpha1.Kind, o, readNodeENI, f.news.nodeENI)
	f.nodes = newStore("Node", o, readNode, f.news.node)
	f.states = newStore(v1alpha1.NodeStateKind, o, readState, f.news.node)
	return f, nil
}

// Run follows the API server and sends Events until ctx ends; call it once. It needs no leadership.
func (f *Fleet) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		follow(ctx, f.nodeENIs, source{f.watchObjects, "nodeenis", v1alpha1.APIVersion, v1alpha1.Kind})
	})
	wg.Go(func() { follow(ctx, f.nodes, source{f.watchCore, "nodes", "v1", "Node"}) })
	wg.Go(func() {
		follow(ctx, f.states, source{f.watchObjects, v1alpha1.NodeStateResource, v1alpha1.APIVersion, v1alpha1.NodeStateKind})
	})
	wg.Go(func() { f.events.Run(ctx) })
	wg.Wait()
}

func follow[T any](ctx context.Context, s *store[T], from source) {
	retry := client.NewRetry()
	lw := listWatch[T]{source: from, read: s.read, report: func(err error) {
		if ctx.Err() == nil { // else the request was ended from here
			s.report(err)
		}
	}}
	cache.NewReflectorWithOptions(&cache.ListWatch{ListWithContextFunc: lw.list, WatchFuncWithContext: lw.watch}, &item[T]{}, s,
		cache.ReflectorOptions{Name: from.resource, Backoff: &retry}).RunWithContext(ctx)
}

// Snapshot has all objects by name. Nobody may change them.
type Snapshot struct {
	NodeENIs map[string]*Object[v1alpha1.NodeENI]
	Nodes    map[string]*Object[Node]
	States   map[string]*Object[State]
}

// Snapshot returns all objects. The error wraps ErrUnknown until each kind was read as a whole; afterwards there is none, however long the
// API server is away.
func (f *Fleet) Snapshot() (Snapshot, error) {
	if err := f.Unread(); err != nil {
		return Snapshot{}, err
	}
	return Snapshot{NodeENIs: f.nodeENIs.all(), Nodes: f.nodes.all(), States: f.states.all()}, nil
}

// Unread names the kinds that were never read as a whole, and why; it wraps ErrUnknown.
func (f *Fleet) Unread() error {
	return errors.Join(f.nodeENIs.unread(), f.nodes.unread(), f.states.unread())
}

// Troubles are the last failures to follow a kind, by kind. An object of such a kind may have changed since.
func (f *Fleet) Troubles() map[string]error {
	out := map[string]error{}
	for kind, err := range map[string]error{f.nodeENIs.kind: f.nodeENIs.failed(), f.nodes.kind: f.nodes.failed(), f.states.kind: f.states.failed()} {
		if err != nil {
			out[kind] = err
		}
	}
	return out
}

// NodeENI returns one; nil if it does not exist. Before Snapshot succeeds nil means nothing.
func (f *Fleet) NodeENI(name string) *Object[v1alpha1.NodeENI] { return f.nodeENIs.get(name) }

// Node returns one; nil if it does not exist. Before Snapshot succeeds nil means nothing.
func (f *Fleet) Node(name string) *Object[Node] { return f.nodes.get(name) }

// State returns a node's ENINodeState; nil if it does not exist. Before Snapshot succeeds nil means nothing.
func (f *Fleet) State(node string) *Object[State] { return f.states.get(node) }

// News are the names of objects that have come, changed or gone. A Node and its ENINodeState have the same name.
type News struct{ NodeENIs, Nodes []string }

// Changed holds a token when Take has something to return.
func (f *Fleet) Changed() <-chan struct{} { return f.news.changed }

// Take returns the changes since the last call, sorted. The first reading of a kind names all its objects.
func (f *Fleet) Take() News { return f.news.take() }

// ClusterUID is the UID of the namespace kube-system, which stands for the cluster.
func (f *Fleet) ClusterUID(ctx context.Context) (string, error) {
	ns, err := f.core.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read the namespace %s, whose UID names the cluster: %w", metav1.NamespaceSystem, typed(err))
	}
	return string(ns.UID), nil
}

type news struct {
	mu      *sync.Mutex
	changed chan struct{}
	// names are by kind: NodeENIs, Nodes.
	names *[2]map[string]bool
}

func newNews() news {
	return news{mu: &sync.Mutex{}, changed: make(chan struct{}, 1), names: &[2]map[string]bool{{}, {}}}
}

func (n news) nodeENI(name string) { n.add(0, name) }

func (n news) node(name string) { n.add(1, name) }

func (n news) add(kind int, name string) {
	n.mu.Lock()
	n.names[kind][name] = true
	n.mu.Unlock()
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

func (n news) take() News {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := News{NodeENIs: slices.Sorted(maps.Keys(n.names[0])), Nodes: slices.Sorted(maps.Keys(n.names[1]))}
	*n.names = [2]map[string]bool{{}, {}}
	return out
}
