package taint

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

type nodeServer struct {
	t      *testing.T
	mu     sync.Mutex
	taints []corev1.Taint
	// before runs ahead of each patch, like another client that changes the Node.
	before  func(*nodeServer)
	patches int
	refuse  int // so many answers are 503
}

func (s *nodeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path != "/api/v1/nodes/node-a" {
		s.t.Errorf("%s %s: not permitted", r.Method, r.URL.Path)
	}
	if s.refuse > 0 {
		s.refuse--
		fakekube.Refuse(w, http.StatusServiceUnavailable)
		return
	}
	if r.Method == http.MethodPatch && !s.patch(r) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":422,"reason":"Invalid","message":"test failed"}`)
		return
	}
	node := corev1.Node{Spec: corev1.NodeSpec{Taints: s.taints}}
	node.APIVersion, node.Kind, node.Name = "v1", "Node", "node-a"
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(node); err != nil {
		s.t.Error(err)
	}
}

// patch applies pairs of test and remove, all or none.
func (s *nodeServer) patch(r *http.Request) bool {
	if s.before != nil {
		s.before(s)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/json-patch+json" {
		s.t.Errorf("patch of type %q, %v", r.Header.Get("Content-Type"), err)
	}
	var operations []struct {
		Op, Path string
		Value    *corev1.Taint
	}
	if err := json.Unmarshal(body, &operations); err != nil || len(operations)%2 != 0 {
		s.t.Errorf("patch %s: %v", body, err)
	}
	taints := append([]corev1.Taint(nil), s.taints...)
	for i := 0; i+1 < len(operations); i += 2 {
		var place int
		if _, err := fmt.Sscanf(operations[i].Path, "/spec/taints/%d", &place); err != nil || operations[i].Op != "test" || operations[i+1].Op != "remove" ||
			operations[i+1].Path != operations[i].Path {
			s.t.Errorf("patch %s", body)
		}
		if place >= len(taints) || !taints[place].MatchTaint(operations[i].Value) {
			return false
		}
		taints = append(taints[:place], taints[place+1:]...)
	}
	s.taints = taints
	s.patches++
	return true
}

func (s *nodeServer) client(t *testing.T) *client.Client {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	config := &rest.Config{Host: srv.URL, QPS: -1}
	c, err := client.New(config, "node-a")
	if err != nil {
		t.Fatal(err)
	}
	c.Core = fakekube.Core(t, config)
	return c
}

func taint(key string, effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: key, Effect: effect}
}

// TestStartupTaint: the taint goes when all is ready; no other taint goes, and no request comes earlier.
func TestStartupTaint(t *testing.T) {
	others := []corev1.Taint{taint("dedicated", corev1.TaintEffectNoSchedule), taint("maintenance", corev1.TaintEffectNoExecute)}
	s := &nodeServer{t: t, refuse: 1, taints: []corev1.Taint{taint(Key, corev1.TaintEffectNoSchedule), others[0], taint(Key, corev1.TaintEffectNoExecute)}}
	s.before = func(s *nodeServer) { // once, somebody else is faster
		s.taints = append(s.taints[:len(s.taints):len(s.taints)], others[1])
		s.taints[1], s.taints[0] = s.taints[0], s.taints[1]
		s.before = nil
	}
	st := New(s.client(t), fakekube.Quiet())
	ended := make(chan struct{})
	go func() { st.Run(t.Context()); close(ended) }()

	unready := ready()
	unready.Inventory.Devices[0].Phase = nodestate.PhasePending
	st.Observe(unready)
	unattached := ready()
	unattached.Declared = append(unattached.Declared, view.Declared{Name: "b"})
	st.Observe(unattached)
	early := view.View{}
	early.Inventory.Problems = []nodestate.Problem{{Reason: "NodeENIsUnreadable"}}
	st.Observe(early)
	unlisted := ready() // the controller has not written its list
	unlisted.ByController, unlisted.Unlisted = true, true
	st.Observe(unlisted)
	select {
	case <-ended:
		t.Fatal("it has not waited")
	default:
	}
	served := ready()
	served.Plugin.State = view.PluginUnknown // which is another matter
	st.Observe(served)
	<-ended
	if diff := cmp.Diff(others, s.taints); diff != "" || s.patches != 1 {
		t.Errorf("%d patches; taints (-want +got):\n%s", s.patches, diff)
	}

	again := New(s.client(t), fakekube.Quiet())
	again.Observe(ready())
	again.Run(t.Context())
	if s.patches != 1 {
		t.Errorf("%d patches, though the taint was gone", s.patches)
	}
}

// TestStartupTaintEnds: it waits for nothing once the daemon ends.
func TestStartupTaintEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &nodeServer{t: t, refuse: 100}
	st := New(s.client(t), fakekube.Quiet())
	st.Run(ctx)
	st.Observe(ready())
	st.Run(ctx)
}

func ready() view.View {
	return view.View{
		Inventory: nodestate.Inventory{Devices: []nodestate.Device{{ENIID: "eni-00000001", NodeENI: "a", Phase: nodestate.PhaseReady}}},
		Declared:  []view.Declared{{Name: "a"}},
	}
}
