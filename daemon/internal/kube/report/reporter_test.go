package report

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

const (
	pathStates = "/apis/networking.k8s.aws/v1alpha1/eninodestates"
	pathState  = pathStates + "/node-a"
)

// stateServer has at most one ENINodeState, and fails the test on a request without a permission of the daemon.
type stateServer struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	object *v1alpha1.ENINodeState
	// crd: the kind exists. deny answers every request with 503.
	crd, deny bool
	creates   int
	applies   int
	events    []string
	// refuse, if set, answers the Events of a namespace.
	refuse map[string]http.HandlerFunc
	// removed is closed and replaced when the object is deleted.
	removed chan struct{}
	// states, if set, answers requests about ENINodeStates.
	states http.HandlerFunc
	// refusedStates counts the requests while the kind is unknown.
	refusedStates int
}

func newStateServer(t *testing.T) *stateServer {
	s := &stateServer{t: t, crd: true, refuse: map[string]http.HandlerFunc{}, removed: make(chan struct{})}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *stateServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == pathStates {
		s.follow(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Errorf("read request: %v", err)
	}
	namespace := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"), "/events")
	isEvent := r.Method == http.MethodPost && slices.Contains([]string{"default", "red", "blue"}, namespace)
	switch key := r.Method + " " + r.URL.Path; {
	case s.deny:
		fakekube.Refuse(w, http.StatusServiceUnavailable)
	case isEvent && s.refuse[namespace] != nil:
		s.refuse[namespace](w, r)
	case isEvent:
		s.event(w, body)
	case s.states != nil:
		s.states(w, r)
	case !s.crd:
		s.refusedStates++
		fakekube.Refuse(w, http.StatusNotFound)
	case key == "GET "+pathState && s.object != nil:
		s.answer(w, s.object)
	case key == "GET "+pathState:
		fakekube.Refuse(w, http.StatusNotFound)
	case key == "POST "+pathStates && s.object != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":409,"reason":"AlreadyExists","message":"as told"}`)
	case key == "POST "+pathStates:
		s.creates++
		s.object = s.decode(body)
		s.object.Status = v1alpha1.ENINodeStateStatus{} // a create has no status
		s.answer(w, s.object)
	case key == "PATCH "+pathState+"/status" && s.object == nil:
		fakekube.Refuse(w, http.StatusNotFound)
	case key == "PATCH "+pathState+"/status":
		q := r.URL.Query()
		if q.Get("fieldManager") != "multi-enid" || q.Get("force") != "true" || r.Header.Get("Content-Type") != "application/apply-patch+yaml" {
			s.t.Errorf("%s %s: not a forced apply by multi-enid", key, r.URL)
		}
		s.applies++
		s.object.Status = s.decode(body).Status
		s.answer(w, s.object)
	default:
		s.t.Errorf("%s: not permitted", key)
		fakekube.Refuse(w, http.StatusForbidden)
	}
}

// follow serves lists and watches of the object's metadata.
func (s *stateServer) follow(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("fieldSelector") != "metadata.name=node-a" || !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		s.t.Errorf("%s (%s): not the metadata of the own object", r.URL, r.Header.Get("Accept"))
	}
	s.mu.Lock()
	there, removed, refused := s.object != nil, s.removed, s.deny || !s.crd
	s.mu.Unlock()
	const item = `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"name":"node-a","resourceVersion":"1"}}`
	switch {
	case refused:
		fakekube.Refuse(w, http.StatusNotFound)
	case q.Get("sendInitialEvents") != "":
		fakekube.Refuse(w, http.StatusUnprocessableEntity)
	case q.Get("watch") == "":
		w.Header().Set("Content-Type", "application/json")
		items := ""
		if there {
			items = item
		}
		fmt.Fprintf(w, `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"1"},"items":[%s]}`, items)
	default:
		w.Header().Set("Content-Type", "application/json")
		http.NewResponseController(w).Flush() //nolint:errcheck // httptest's can
		select {
		case <-r.Context().Done():
		case <-removed:
			fmt.Fprintln(w, fakekube.Event("DELETED", item))
		}
	}
}

func (s *stateServer) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.object = nil
	close(s.removed)
	s.removed = make(chan struct{})
}

func (s *stateServer) decode(body []byte) *v1alpha1.ENINodeState {
	var o v1alpha1.ENINodeState
	if err := json.Unmarshal(body, &o); err != nil || o.Name != "node-a" || o.Kind != "ENINodeState" {
		s.t.Errorf("not the ENINodeState of node-a (%v): %s", err, body)
	}
	return &o
}

func (s *stateServer) event(w http.ResponseWriter, body []byte) {
	var e corev1.Event
	if err := json.Unmarshal(body, &e); err != nil {
		s.t.Errorf("event: %v: %s", err, body)
	}
	s.events = append(s.events, e.Type+" "+e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+" "+e.Reason)
	s.answer(w, e)
}

func (s *stateServer) answer(w http.ResponseWriter, o any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(o); err != nil {
		s.t.Errorf("answer: %v", err)
	}
}

func (s *stateServer) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(&rest.Config{Host: s.url, QPS: -1}, "node-a")
	if err != nil {
		t.Fatal(err)
	}
	config := rest.Config{Host: s.url, QPS: -1}
	config.ContentType = "application/json"
	c.Core = fakekube.Core(t, &config)
	return c
}

func (s *stateServer) counts() (creates, applies int, events []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.creates, s.applies, append([]string(nil), s.events...)
}

var reportNode = client.NodeRef{Name: "node-a", UID: "u-node"}

func readyView() view.View {
	return view.View{
		At: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC),
		Inventory: nodestate.Inventory{NodeName: "node-a", Devices: []nodestate.Device{
			{ENIID: "eni-00000001", NodeENI: "a", PCIAddress: "0000:00:06.0", DeviceIndex: 1, NetworkCard: -1, Phase: nodestate.PhaseReady},
		}},
		Declared: []view.Declared{{Name: "a", UID: "u-a", Generation: 3}},
		Config:   view.ConfigView{Path: "/etc/pcidp/config.json", Hash: "abc", Current: true},
		Plugin:   view.PluginView{State: view.PluginServing, ServedHash: "abc"},
	}
}

// report runs a Reporter until the test ends or stop is called.
func report(t *testing.T, s *stateServer) (r *Reporter, stop func()) {
	t.Helper()
	return reportWith(t, s, fakekube.Quiet())
}

func reportWith(t *testing.T, s *stateServer, log logrus.FieldLogger) (r *Reporter, stop func()) {
	t.Helper()
	r = New(s.client(t), Options{Node: func() (client.NodeRef, bool) { return reportNode, true }, Now: time.Now, Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return r, stop
}

func TestReporterWritesOnlyChanges(t *testing.T) {
	s := newStateServer(t)
	r, stop := report(t, s)
	r.Observe(readyView())
	fakekube.Await(t, "first state and event", func() bool { _, n, e := s.counts(); return n == 1 && len(e) == 1 })
	if got := s.object.OwnerReferences[0]; got.UID != reportNode.UID || got.Kind != "Node" || s.object.Status.DevicesReady != "1/1" {
		t.Errorf("owner %v, status %+v", got, s.object.Status)
	}
	r.Observe(readyView())
	later := readyView()
	later.At = later.At.Add(time.Hour)
	r.Observe(later)
	later.Plugin.State, later.Plugin.Message = view.PluginFailed, "not ready"
	r.Observe(later)
	fakekube.Await(t, "second state", func() bool { _, n, _ := s.counts(); return n == 2 })
	stop()

	// a daemon that starts again has nothing new to say
	r, _ = report(t, s)
	r.Observe(later)
	fakekube.Await(t, "reading at the start", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.history != nil })
	later.Inventory.Devices = readyView().Inventory.Devices // a View is not changed once it was handed out
	later.Inventory.Devices[0].Phase = nodestate.PhaseDraining
	later.Holders = []view.Holder{{PCIAddress: "0000:00:06.0", Pod: "red/router", PodUID: "u-p"}}
	r.Observe(later)
	fakekube.Await(t, "draining", func() bool { _, _, e := s.counts(); return len(e) >= 3 })
	fakekube.Await(t, "third state", func() bool { _, n, _ := s.counts(); return n == 3 })
	creates, applies, events := s.counts()
	want := []string{"Normal NodeENI a DeviceReady", "Normal NodeENI a DeviceRemoved", "Warning Pod router DeviceRemoved"}
	if diff := cmp.Diff(want, events); diff != "" || creates != 1 || applies != 3 {
		t.Errorf("%d creates, %d applies, events (-want +got):\n%s", creates, applies, diff)
	}
}

func TestReporterMakesTheObjectAnew(t *testing.T) {
	s := newStateServer(t)
	r, _ := report(t, s)
	r.Observe(readyView())
	fakekube.Await(t, "first state", func() bool { _, n, _ := s.counts(); return n == 1 })
	s.mu.Lock()
	s.object = nil
	s.mu.Unlock()
	v := readyView()
	v.Config.Current = false
	r.Observe(v)
	fakekube.Await(t, "state of the new object", func() bool { c, n, _ := s.counts(); return c == 2 && n == 2 })
}

func TestReporterLosesNoEventInAnOutage(t *testing.T) {
	s := newStateServer(t)
	s.deny = true
	r, _ := report(t, s)
	r.Observe(readyView())
	s.mu.Lock()
	s.deny = false
	s.mu.Unlock()
	fakekube.Await(t, "state and event after the outage", func() bool { _, n, e := s.counts(); return n == 1 && len(e) == 1 })
	if r.Dropped() != 0 {
		t.Errorf("%d dropped", r.Dropped())
	}
}

// TestReporterQueueIsBounded: the queue drops the oldest first, and counts them.
func TestReporterQueueIsBounded(t *testing.T) {
	s := newStateServer(t)
	r := New(s.client(t), Options{Node: func() (client.NodeRef, bool) { return reportNode, true }, Now: time.Now, Log: fakekube.Quiet()})
	r.begin(v1alpha1.ENINodeStateStatus{})
	v := readyView()
	for i := range 256 + 9 {
		v.Inventory.Problems = append(v.Inventory.Problems, nodestate.Problem{Reason: "InvalidMTU", NodeENI: fmt.Sprint("n", i), Message: "m"})
	}
	r.Observe(v)
	if r.Dropped() != 10 { // one more is DeviceReady
		t.Errorf("%d dropped", r.Dropped())
	}
}

func TestNodeStateKeepsTransitions(t *testing.T) {
	v := readyView()
	first := statusOf(v, v1alpha1.ENINodeStateStatus{})
	v.At = v.At.Add(time.Hour)
	if again := statusOf(v, first); !sameState(first, again) {
		t.Errorf("time alone is a change:\n%s", cmp.Diff(first, again))
	}
	v.Config.Current = false
	changed := statusOf(v, first)
	for i, c := range changed.Conditions {
		if moved := !c.LastTransitionTime.Equal(&first.Conditions[i].LastTransitionTime); moved != (c.Type == v1alpha1.ConditionConfigCurrent) {
			t.Errorf("%s: moved %v", c.Type, moved)
		}
	}
}
