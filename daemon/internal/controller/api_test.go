package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// errDown is the API server's answer while it is away.
var errDown = errors.New("the API server is away")

type (
	eniObject   = fleet.Object[v1alpha1.NodeENI]
	nodeObject  = fleet.Object[fleet.Node]
	stateObject = fleet.Object[fleet.State]
)

// api is a cluster's API server. Its objects are those of package fleet; a change makes a new one.
type api struct {
	mu      sync.Mutex
	version int
	enis    map[string]*eniObject
	nodes   map[string]*nodeObject
	states  map[string]*stateObject
	views   []*view
	rival   *fleet.Rival
	denied  bool // whoever asks for rival may not
	events  []fleet.Event
	// writes counts the successful writes of controllers, by kind.
	writes map[string]int
	// onState is called after a change of an ENINodeState's spec, in no goroutine in particular.
	onState func(node string)
	// onWrite is called for each of writes, under mu.
	onWrite func(doing, name string)
	// lag is how late a view learns of a change, latency how long a write takes. fault may fail a write.
	lag     func() time.Duration
	latency time.Duration
	fault   func(doing string) (before, after error)
}

func newAPI() *api {
	return &api{
		enis: map[string]*eniObject{}, nodes: map[string]*nodeObject{}, states: map[string]*stateObject{}, writes: map[string]int{},
		onState: func(string) {}, onWrite: func(string, string) {}, lag: func() time.Duration { return 0 }, fault: func(string) (error, error) { return nil, nil },
	}
}

func clone[T any](v T) (out T) {
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		panic(err)
	}
	return out
}

func (a *api) stamp() string {
	a.version++
	return strconv.Itoa(a.version)
}

// setNodeENI makes a NodeENI, or changes it.
func (a *api) setNodeENI(name string, edit func(*v1alpha1.NodeENI)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &eniObject{Name: name, UID: "nodeeni-" + a.stamp(), Known: true}
	if before := a.enis[name]; before != nil {
		o = new(*before)
		o.Is = clone(o.Is)
	}
	edit(&o.Is)
	o.Generation++
	a.putNodeENI(o)
}

func (a *api) putNodeENI(o *eniObject) {
	o.Version = a.stamp()
	o.Is.Name, o.Is.UID, o.Is.Generation = o.Name, types.UID(o.UID), o.Generation
	o.Is.DeletionTimestamp = nil
	if o.Deleting {
		o.Is.DeletionTimestamp = new(metav1.Now())
	}
	a.enis[o.Name] = o
	if o.Deleting && len(o.Is.Finalizers) == 0 {
		delete(a.enis, o.Name)
	}
	a.tell("NodeENI", o.Name, a.version)
}

func (a *api) deleteNodeENI(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.enis[name]; o != nil && !o.Deleting {
		o = new(*o)
		o.Is = clone(o.Is)
		o.Deleting = true
		a.putNodeENI(o)
	}
}

// setRival makes another controller's Lease fresh; nil ends that.
func (a *api) setRival(r *fleet.Rival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rival = r
}

// denyRival takes the right to list Leases, or gives it back.
func (a *api) denyRival(denied bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.denied = denied
}

// setNode makes a Node, or changes it.
func (a *api) setNode(name string, edit func(*fleet.Node)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := &nodeObject{Name: name, UID: "node-" + a.stamp(), Known: true}
	if before := a.nodes[name]; before != nil {
		o = new(*before)
		o.Is = clone(o.Is)
	}
	edit(&o.Is)
	o.Version = a.stamp()
	a.nodes[name] = o
	a.tell("Node", name, a.version)
}

// deleteNode deletes a Node, and its ENINodeState as the garbage collector does.
func (a *api) deleteNode(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.nodes, name)
	a.stamp()
	a.tell("Node", name, a.version)
	if a.states[name] != nil {
		a.dropState(name)
	}
}

// setStatus is a daemon's write.
func (a *api) setStatus(node string, edit func(*fleet.State)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.nodes[node] == nil {
		return false
	}
	o := &stateObject{Name: node, UID: "state-" + a.stamp(), Known: true, Generation: 1, Is: fleet.State{Owner: a.nodes[node].UID}}
	if before := a.states[node]; before != nil {
		o = new(*before)
		o.Is = clone(o.Is)
	}
	before := clone(o.Is)
	edit(&o.Is)
	if a.states[node] != nil && fmt.Sprint(before) == fmt.Sprint(o.Is) {
		return true
	}
	a.putState(o)
	return true
}

func (a *api) putState(o *stateObject) {
	o.Version = a.stamp()
	a.states[o.Name] = o
	a.tell("State", o.Name, a.version)
}

// deleteState deletes an ENINodeState, as a person may.
func (a *api) deleteState(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropState(node)
}

func (a *api) dropState(node string) {
	delete(a.states, node)
	a.stamp()
	a.tell("State", node, a.version)
}

func (a *api) state(node string) *fleet.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.states[node]; o != nil {
		return new(clone(o.Is))
	}
	return nil
}

func (a *api) nodeENI(name string) *eniObject {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.enis[name]
}

func (a *api) written() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.writes {
		n += c
	}
	return n
}

// told returns how often each reason was told.
func (a *api) told() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]int{}
	for _, e := range a.events {
		out[e.Reason]++
	}
	return out
}

// tell lets every view learn of an object's version. Hold mu.
func (a *api) tell(kind, name string, version int) {
	for _, v := range a.views {
		if lag := a.lag(); lag > 0 {
			time.AfterFunc(lag, func() {
				a.mu.Lock()
				defer a.mu.Unlock()
				v.learn(kind, name, version)
			})
		} else {
			v.learn(kind, name, version)
		}
	}
}
