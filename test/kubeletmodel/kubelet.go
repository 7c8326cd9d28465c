// Package kubeletmodel is a model of the kubelet's device manager, for tests of device plugins.
//
// It follows pkg/kubelet/cm/devicemanager, pkg/kubelet/pluginmanager and pkg/kubelet/apis/podresources of Kubernetes v1.36.3, and
// with V137 the changes of v1.37.2. test/kube/devicemanager compares it with the real one. Like the real one it has a goroutine for
// each connection, and Options.Pause stops it where the real one can be overtaken.
//
// Not modelled: NUMA alignment, init containers that are no sidecars, PreStartContainer, CDI, DRA, and the health of
// devices in a pod's status.
package kubeletmodel

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Version is the kubelet's, as far as device plugins notice.
type Version int

// The versions.
const (
	// V136 stands for kubelets up to v1.36.3: the end of any connection of a resource ends the newest one, too.
	V136 Version = iota
	// V137 stands for v1.37.2: the end of a connection ends that connection, and a socket registers once at a time.
	V137
)

// Point is a place where the kubelet holds no lock between two changes, so that anything may happen in between.
type Point string

// The points.
const (
	Registering   Point = "registering"    // the new client is the current one, and not connected yet
	Ended         Point = "stream ended"   // the client that is to be disconnected has not been looked up yet
	Deregistered  Point = "deregistered"   // the connection is still open
	Closed        Point = "closed"         // the devices are still healthy
	ListReceived  Point = "list received"  // not stored yet
	DevicesPicked Point = "devices picked" // the plugin has not been asked to allocate them yet
	Answered      Point = "answered"       // the plugin has allocated the devices, and podresources does not show them
)

// GracePeriod is how long a resource stays known after its device plugin has gone.
const GracePeriod = 5 * time.Minute

// connectTimeout bounds the wait for a registered plugin's socket.
const connectTimeout = 10 * time.Second

// Conn is a connection to a device plugin.
type Conn interface {
	deviceapi.DevicePluginClient
	Close() error
}

// Options configure a kubelet. All but Dial and Node may be left out.
type Options struct {
	Version Version
	// Dial connects to the socket of a plugin, or waits for it until ctx ends.
	Dial func(ctx context.Context, socket string) (Conn, error)
	// Node has the files and pods that a kubelet finds at its start.
	Node *Node
	// Folder is put before the names of sockets in registrations.
	Folder string
	// Now is the clock. Nil stands for time.Now.
	Now func() time.Time
	// Pause is called without locks at each Point.
	Pause func(p Point, resource string)
	// Changed is called with the number of a resource's healthy devices after each list, and when they become unhealthy. It must not
	// call the kubelet. Nil: nobody looks.
	Changed func(resource string, healthy int)
	// Pick chooses n of the sorted available devices where the real kubelet takes any. Nil stands for the first.
	Pick func(available []string, n int) []string
}

// Pod is a pod that the kubelet is to run.
type Pod struct {
	UID        string
	Containers []Container
}

// Container is a container with its limits of extended resources.
type Container struct {
	Name  string
	Wants map[string]int
}

// allocation are the devices of one container, by resource. An empty one stands for a resource of which the container has none.
type allocation map[string]set

// holders are allocations by pod and container.
type holders map[string]map[string]allocation

// Node is the part of a node that outlives its kubelet: the checkpoint of the device manager and the pods. It is safe for concurrent use.
type Node struct {
	mu         sync.Mutex
	held       holders
	registered set
	pods       map[string]Pod
}

// NewNode returns a node without pods.
func NewNode() *Node { return &Node{held: holders{}, registered: set{}, pods: map[string]Pod{}} }

// AddPod makes a pod active.
func (n *Node) AddPod(p Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods[p.UID] = p
}

// EndPod makes a pod inactive. Kubelets free its devices when they allocate or list the next time.
func (n *Node) EndPod(uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, uid)
}

// Pods returns the active pods, by UID.
func (n *Node) Pods() []Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.pods), func(a, b Pod) int { return cmpString(a.UID, b.UID) })
}

// endpoint is the kubelet's memory of a registered plugin. Without conn it is one that only the checkpoint names.
type endpoint struct {
	conn    Conn
	socket  string
	prefers bool
	stopped time.Time // zero while it runs
}

// Kubelet is one run of a kubelet. It is safe for concurrent use.
type Kubelet struct {
	o  Options
	wg sync.WaitGroup

	ctx  context.Context //nolint:containedctx // the process's life
	kill context.CancelFunc

	serverMu sync.Mutex
	clients  map[string][]*client // the newest last; V136 has one at most

	mu        sync.Mutex
	ready     bool // all sources of pods have been read
	running   map[string]set
	endpoints map[string]*endpoint
	store     map[string]map[string]*endpoint // by resource and socket, for V137
	healthy   map[string]set
	unhealthy map[string]set
	all       map[string]set
	allocated map[string]set
	held      holders
	crash     string // the reason of a crash that the real kubelet would have had

	hangMu sync.Mutex
	hang   chan struct{} // nil unless the kubelet hangs

	registry registry
}

// Start runs a kubelet on a node, from its checkpoint: the registered resources have no devices until they register again, and
// their grace period begins. The caller removes the sockets in the device-plugins folder first, as the real one does. The kubelet
// knows all pods at once, unless ForgetSources is called.
func Start(o Options) *Kubelet {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pause == nil {
		o.Pause = func(Point, string) {}
	}
	if o.Changed == nil {
		o.Changed = func(string, int) {}
	}
	if o.Pick == nil {
		o.Pick = func(available []string, n int) []string { return available[:n] }
	}
	k := &Kubelet{
		o: o, ready: true, clients: map[string][]*client{}, endpoints: map[string]*endpoint{}, store: map[string]map[string]*endpoint{},
		healthy: map[string]set{}, unhealthy: map[string]set{}, all: map[string]set{}, running: map[string]set{},
		registry: registry{desired: map[string]int{}, actual: map[string]registered{}},
	}
	k.ctx, k.kill = context.WithCancel(context.Background())
	o.Node.mu.Lock()
	defer o.Node.mu.Unlock()
	k.held = o.Node.held.clone()
	k.allocated = k.held.devices()
	for name := range o.Node.registered {
		k.healthy[name], k.unhealthy[name] = set{}, set{}
		k.endpoints[name] = &endpoint{stopped: o.Now()}
	}
	for uid, containers := range k.held {
		k.running[uid] = set{}
		for c := range containers {
			k.running[uid].add(c)
		}
	}
	return k
}

// ForgetSources makes the kubelet one that has just started: it has not heard of any pod. LearnSources ends that.
func (k *Kubelet) ForgetSources() { k.setReady(false) }

// LearnSources makes all pods known.
func (k *Kubelet) LearnSources() { k.setReady(true) }

func (k *Kubelet) setReady(ready bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready = ready
}

// Kill ends the kubelet as SIGKILL does: connections close, and nothing is written. It returns when its goroutines have ended.
func (k *Kubelet) Kill() {
	k.serverMu.Lock()
	k.kill()
	k.serverMu.Unlock()
	k.Hang(false)
	k.wg.Wait()
}

// Hang lets the kubelet stand still, or go on: it answers no registration and reads no list meanwhile.
func (k *Kubelet) Hang(on bool) {
	k.hangMu.Lock()
	defer k.hangMu.Unlock()
	switch {
	case on && k.hang == nil:
		k.hang = make(chan struct{})
	case !on && k.hang != nil:
		close(k.hang)
		k.hang = nil
	}
}

// Hangs says whether the kubelet stands still.
func (k *Kubelet) Hangs() bool {
	k.hangMu.Lock()
	defer k.hangMu.Unlock()
	return k.hang != nil
}

// unhung waits until the kubelet does not hang.
func (k *Kubelet) unhung(ctx context.Context) {
	k.hangMu.Lock()
	hang := k.hang
	k.hangMu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
		}
	}
}

// ErrCrashed means that the real kubelet would have ended with a panic.
var ErrCrashed = errors.New("the kubelet would have crashed")

// Crashed returns the reason why the real kubelet would have ended with a panic by now; "" for none.
func (k *Kubelet) Crashed() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.crash
}

func (k *Kubelet) activePods() map[string]Pod {
	if !k.ready {
		return nil
	}
	k.o.Node.mu.Lock()
	defer k.o.Node.mu.Unlock()
	return maps.Clone(k.o.Node.pods)
}

// write stores the checkpoint. The caller holds k.mu.
func (k *Kubelet) write() {
	if k.ctx.Err() != nil {
		return
	}
	k.o.Node.mu.Lock()
	defer k.o.Node.mu.Unlock()
	k.o.Node.held = k.held.clone()
	k.o.Node.registered = set{}
	for name := range k.healthy {
		k.o.Node.registered.add(name)
	}
}
