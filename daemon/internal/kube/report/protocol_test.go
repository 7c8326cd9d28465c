package report

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// told are the calls of Reported, as "eni,eni" of each.
type told struct {
	mu   sync.Mutex
	last []v1alpha1.ReleasedENI
	view uint64
	n    int
}

func (c *told) reported(r []v1alpha1.ReleasedENI, view uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.view, c.n = r, max(c.view, view), c.n+1
}

func (c *told) is(want ...v1alpha1.ReleasedENI) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n > 0 && cmp.Equal(want, c.last) || c.n > 0 && len(want)+len(c.last) == 0
}

func (c *told) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n == 0
}

func reportProtocol(t *testing.T, s *stateServer, known func() bool) (*Reporter, *told, func()) {
	t.Helper()
	c := &told{}
	r := New(s.client(t), Options{Node: func() (client.NodeRef, bool) { return reportNode, known() }, Now: time.Now, Log: fakekube.Quiet(), Reported: c.reported})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.Run(ctx); close(ended) }()
	stop := func() { cancel(); <-ended }
	t.Cleanup(stop)
	return r, c, stop
}

// TestProtocolComesFirst: the first status has the protocol and nothing new else, before any View counts, and a View comes after it.
func TestProtocolComesFirst(t *testing.T) {
	s := newStateServer(t)
	var mu sync.Mutex
	known := false
	r, c, stop := reportProtocol(t, s, func() bool { mu.Lock(); defer mu.Unlock(); return known })
	early := view.View{Unlisted: true} // the list is not known yet
	r.Observe(early)
	fakekube.Await(t, "reading at the start", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.history != nil })
	if _, n, _ := s.counts(); n != 0 || !c.silent() {
		t.Errorf("%d applies before the Node is known, reported %t", n, !c.silent())
	}
	mu.Lock()
	known = true
	mu.Unlock()
	r.Observe(early)
	fakekube.Await(t, "the protocol", func() bool { return c.is() })
	s.mu.Lock()
	first, err := json.Marshal(s.object.Status)
	s.mu.Unlock()
	if err != nil || string(first) != `{"problemCount":0,"protocol":1}` {
		t.Errorf("first status %s, error %v", first, err)
	}
	v := readyView()
	one := v1alpha1.ReleasedENI{Slot: "0000000000000001", ENIID: "eni-00000001", Release: 3}
	v.Released = []view.Released{{Slot: one.Slot, ENIID: "eni-00000001", Release: 3}}
	r.Observe(v)
	fakekube.Await(t, "released", func() bool { return c.is(one) })
	v.Number, v.Released = 7, nil // wanted after all
	r.Observe(v)
	fakekube.Await(t, "no longer", func() bool { return c.is() })
	v.Number = 8 // without news
	r.Observe(v)
	fakekube.Await(t, "the number of the View", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.view == 8 })
	v.Released = []view.Released{{Slot: one.Slot, ENIID: "eni-00000001", Release: 3}}
	r.Observe(v)
	fakekube.Await(t, "released again", func() bool { return c.is(one) })
	stop()

	// the next daemon knows from the status what it says, and writes nothing
	_, applies, _ := s.counts()
	_, c, _ = reportProtocol(t, s, func() bool { return true })
	fakekube.Await(t, "the earlier daemon's status", func() bool { return c.is(one) })
	if _, n, _ := s.counts(); n != applies {
		t.Errorf("%d applies at the start of the next daemon", n-applies)
	}
}

// TestLateWriteOfAnEarlierDaemon: it lands after the status that the controller waits for, which is written again.
func TestLateWriteOfAnEarlierDaemon(t *testing.T) {
	s := newStateServer(t)
	c := &told{}
	r := New(s.client(t), Options{Node: func() (client.NodeRef, bool) { return reportNode, true }, Now: time.Now, Log: fakekube.Quiet(), Reported: c.reported})
	r.late = 3 * time.Second
	go r.Run(t.Context())
	v := readyView()
	one := v1alpha1.ReleasedENI{Slot: "0000000000000001", ENIID: "eni-00000001", Release: 3}
	v.Released = []view.Released{{Slot: one.Slot, ENIID: "eni-00000001", Release: one.Release}}
	r.Observe(v)
	status := func() []v1alpha1.ReleasedENI {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.object == nil {
			return nil
		}
		return s.object.Status.Released
	}
	fakekube.Await(t, "released", func() bool { return cmp.Equal(status(), []v1alpha1.ReleasedENI{one}) })
	s.mu.Lock()
	s.object.Status = v1alpha1.ENINodeStateStatus{Protocol: v1alpha1.Protocol}
	s.mu.Unlock()
	fakekube.Await(t, "released again", func() bool { return cmp.Equal(status(), []v1alpha1.ReleasedENI{one}) })
}

// TestProtocolOfAnotherNode: the object of an earlier Node of the name says nothing about this one.
func TestProtocolOfAnotherNode(t *testing.T) {
	s := newStateServer(t)
	s.object = &v1alpha1.ENINodeState{Status: v1alpha1.ENINodeStateStatus{Protocol: 1}}
	if err := json.Unmarshal([]byte(`{"metadata":{"name":"node-a","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"node-a","uid":"older"}]}}`),
		s.object); err != nil {
		t.Fatal(err)
	}
	r, c, _ := reportProtocol(t, s, func() bool { return true })
	r.Observe(readyView())
	fakekube.Await(t, "reading at the start", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.history != nil })
	if !c.silent() {
		t.Error("reported by the object of another Node")
	}
	s.mu.Lock()
	s.object = nil // the garbage collector
	s.mu.Unlock()
	fakekube.Await(t, "the own object", func() bool { return c.is() })
}

// TestProtocolCostsNoStorm: any number of Views without news is one request, and one deletion is one look and one write.
func TestProtocolCostsNoStorm(t *testing.T) {
	s := newStateServer(t)
	r, c, _ := reportProtocol(t, s, func() bool { return true })
	r.Observe(readyView())
	fakekube.Await(t, "the View", func() bool { _, n, _ := s.counts(); return n == 2 && c.is() })
	for range 100 {
		r.Observe(readyView())
	}
	s.mu.Lock()
	s.object = nil
	s.mu.Unlock()
	for range 10 {
		r.Gone()
	}
	fakekube.Await(t, "the object again", func() bool { creates, n, _ := s.counts(); return creates == 2 && n == 4 || creates == 2 && n == 3 })
	if creates, n, _ := s.counts(); creates != 2 || n > 4 {
		t.Errorf("%s", fmt.Sprint(creates, " creates, ", n, " applies"))
	}
}
