package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
			fakekube.Await(t, "one line", func() bool { return strings.Count(log.String(), "cluster cannot be told") == 1 })
			s.mu.Lock()
			delete(s.refuse, "red")
			s.mu.Unlock()
			fakekube.Await(t, "the Event, after that was mended", arrived("Warning Pod p DeviceRemoved"))
			fakekube.Await(t, "the end of it", func() bool { return strings.Count(log.String(), "can be told of this node again") == 1 })
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

// TestNoteQueue makes random runs: an object's events leave in order, a healthy object never waits, retries are apart, and losses are counted.
func TestNoteQueue(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		runQueue(t, rnd)
	}
}

func runQueue(t *testing.T, rnd *rand.Rand) {
	t.Helper()
	var q eventQueue
	now := time.Unix(1e9, 0)
	bad := map[string]bool{}
	last := map[string]int{}
	added, gone := 0, 0
	var retried time.Time
	for range 60 {
		switch rnd.IntN(4) {
		case 0:
			name := string(rune('a' + rnd.IntN(4)))
			added++
			gone += int(q.add(now, event{about: corev1.ObjectReference{Name: name}, message: fmt.Sprint(added)}))
		case 1:
			name := string(rune('a' + rnd.IntN(4)))
			bad[name] = !bad[name]
		case 2:
			now = now.Add(time.Duration(rnd.IntN(int(20 * time.Second))))
		}
		n, wait := q.next(now)
		if n == nil {
			if wait == 0 && q.count > 0 || wait > client.LastRetry {
				t.Fatalf("%d wait, for %v", q.count, wait)
			}
			for _, l := range q.lines {
				if !l.retry.Failing() {
					t.Fatal("a healthy object waits")
				}
			}
			continue
		}
		name := n.about.Name
		var place int
		if _, err := fmt.Sscan(n.message, &place); err != nil {
			t.Fatal(err)
		}
		if place < last[name] {
			t.Fatalf("%s: note %d after %d", name, place, last[name])
		}
		last[name] = place
		if !bad[name] {
			q.done(n, true)
			gone++
			retried = time.Time{}
			continue
		}
		if q.lines[n.about].retry.Failing() {
			if now.Sub(retried) < client.FirstRetry {
				t.Fatalf("two retries within %v", now.Sub(retried))
			}
			retried = now
		}
		q.failed(n, now)
	}
	if q.count+gone != added {
		t.Fatalf("%d added, %d wait, %d gone", added, q.count, gone)
	}
}

// TestNoteQueueIsFair: an object that fills the queue displaces itself.
func TestNoteQueueIsFair(t *testing.T) {
	var q eventQueue
	now := time.Unix(1e9, 0)
	quietOne := event{about: corev1.ObjectReference{Name: "quiet"}}
	q.add(now, quietOne)
	var dropped uint64
	for range 2 * maxEvents {
		dropped += q.add(now, event{about: corev1.ObjectReference{Name: "loud"}})
	}
	n, _ := q.next(now)
	if dropped != maxEvents+1 || q.count != maxEvents || n == nil || n.about.Name != "quiet" {
		t.Errorf("%d dropped, %d wait, next %+v", dropped, q.count, n)
	}
}

// TestRefusedForLong: the Reporter gives up an Event forbidden for longer than the API server keeps Events, but not one without answer.
func TestRefusedForLong(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "e", errors.New("RBAC"))
	for _, tc := range []struct {
		err  error
		want int
	}{{forbidden, 0}, {errors.New("connection refused"), 1}} {
		now := time.Unix(1e9, 0)
		r := &Reporter{Options: Options{Now: func() time.Time { return now }, Log: fakekube.Quiet()}}
		r.queue.add(now, event{about: corev1.ObjectReference{Name: "a"}})
		spell := eventSpell{log: fakekube.Quiet()}
		for _, want := range []int{1, tc.want} {
			n, _ := r.next()
			if n == nil {
				t.Fatal("nothing to send")
			}
			r.sent(n, tc.err, &spell)
			if r.queue.count != want {
				t.Errorf("%v: %d wait, want %d", tc.err, r.queue.count, want)
			}
			now = now.Add(refusedLatest)
		}
	}
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

// TestRetriesWithinAMinute: after a repair, the next retry comes within a minute.
func TestRetriesWithinAMinute(t *testing.T) {
	f := client.NewFailures(fakekube.Quiet(), "Node")
	var b retry
	watch := client.NewRetry()
	for range 20 {
		b.failed(time.Unix(1e9, 0))
		for what, got := range map[string]time.Duration{"state": f.Failed(t.Context(), client.ErrNoNews), "Event": b.Wait(), "watch": watch.Step()} {
			if got <= 0 || got > 40*time.Second {
				t.Errorf("%s: waits %v", what, got)
			}
		}
	}
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
