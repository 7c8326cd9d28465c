package report

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// terminating is the answer for a namespace that is being deleted.
func terminating(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprint(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":403,"reason":"Forbidden","message":"because it is being terminated",
		"details":{"name":"e","kind":"events","causes":[{"reason":"NamespaceTerminating",`+
		`"message":"namespace red is being terminated","field":"metadata.namespace"}]}}`)
}

func answerWith(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fakekube.Refuse(w, code) }
}

// drainingFor is a View with one device, whose MAC ends in last, that drains under a pod.
func drainingFor(v view.View, last int, pod string) view.View {
	pci := device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", last))
	v.Inventory.Devices = append(slices.Clone(v.Inventory.Devices), nodestate.Device{
		ENIID: device.ENIID(fmt.Sprintf("eni-%08x", last)), NodeENI: "a", PCIAddress: pci, DeviceIndex: last, NetworkCard: -1, Phase: nodestate.PhaseDraining,
	})
	v.Holders = append(slices.Clone(v.Holders), view.Holder{PCIAddress: pci, Pod: pod, PodUID: "u-" + pod})
	return v
}

// TestEventsOfOthersAreSent: no answer to one Event delays the Events of other objects, and an impossible Event is given up with one log line.
func TestEventsOfOthersAreSent(t *testing.T) {
	for name, tc := range map[string]struct {
		answer  http.HandlerFunc
		dropped uint64
	}{
		"terminating namespace": {terminating, 1},
		"no such namespace":     {answerWith(404), 1},
		"malformed":             {answerWith(422), 1},
		"denied":                {answerWith(403), 0},
		"failing webhook":       {answerWith(500), 0},
		"no answer":             {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStateServer(t)
			s.refuse["red"] = tc.answer
			var log safeBuffer
			r, _ := reportTo(t, s, &log)
			r.Observe(drainingFor(drainingFor(readyView(), 7, "red/p"), 8, "blue/q"))
			arrived := func(want string) func() bool {
				return func() bool { _, _, e := s.counts(); return slices.Contains(e, want) }
			}
			fakekube.Await(t, "the Event of the other pod", arrived("Warning Pod q DeviceRemoved"))
			fakekube.Await(t, "the number of Events given up", func() bool { return r.Dropped() == tc.dropped })
			if tc.dropped > 0 {
				fakekube.Await(t, "one line", func() bool { return strings.Count(log.String(), "given up") == 1 })
				return
			}
			fakekube.Await(t, "one line", func() bool { return strings.Count(log.String(), "Events cannot be sent") == 1 })
			s.mu.Lock()
			delete(s.refuse, "red")
			s.mu.Unlock()
			fakekube.Await(t, "the Event, after that was mended", arrived("Warning Pod p DeviceRemoved"))
			fakekube.Await(t, "the end of it", func() bool { return strings.Count(log.String(), "Events are sent again") == 1 })
		})
	}
}

// TestEventsWithoutState: Events do not wait for an ENINodeState that the daemon may not read.
func TestEventsWithoutState(t *testing.T) {
	s := newStateServer(t)
	s.states = answerWith(403)
	now := time.Now()
	r := New(s.client(t), Options{Node: func() (client.NodeRef, bool) { return reportNode, true },
		Now: func() time.Time { now = now.Add(settleWithin); return now }, Log: fakekube.Quiet()})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { r.writeStates(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	fakekube.Await(t, "Events begin", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.history != nil })
}

// TestStateComesBack: a deleted ENINodeState is made again with its old status, though nothing changes.
func TestStateComesBack(t *testing.T) {
	s := newStateServer(t)
	r, _ := report(t, s)
	r.Observe(readyView())
	fakekube.Await(t, "first state", func() bool { _, n, _ := s.counts(); return n == 1 })
	s.remove()
	fakekube.Await(t, "state of the new object", func() bool { c, n, _ := s.counts(); return c == 2 && n == 2 })
	if s.object.Status.DevicesReady != "1/1" {
		t.Errorf("status %+v", s.object.Status)
	}
}

// TestStateComesBackWithItsKind: deleting the CRD deletes the object and ends the watch; the object returns with the CRD.
func TestStateComesBackWithItsKind(t *testing.T) {
	s := newStateServer(t)
	r, _ := report(t, s)
	r.Observe(readyView())
	fakekube.Await(t, "first state", func() bool { _, n, _ := s.counts(); return n == 1 })
	s.mu.Lock()
	s.crd = false
	s.mu.Unlock()
	s.remove()
	fakekube.Await(t, "a try", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.refusedStates > 0 })
	s.mu.Lock()
	s.crd = true
	s.mu.Unlock()
	fakekube.Await(t, "state of the new object", func() bool { c, n, _ := s.counts(); return c == 2 && n == 2 })
}

func reportTo(t *testing.T, s *stateServer, out *safeBuffer) (r *Reporter, stop func()) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(out)
	return reportWith(t, s, log)
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
