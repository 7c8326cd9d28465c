package eventqueue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

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
	var q lines
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
			gone += int(q.add(now, Event{About: corev1.ObjectReference{Name: name}, Message: fmt.Sprint(added)}))
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
			for _, l := range q.byObject {
				if !l.retry.Failing() {
					t.Fatal("a healthy object waits")
				}
			}
			continue
		}
		name := n.About.Name
		var place int
		if _, err := fmt.Sscan(n.Message, &place); err != nil {
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
		if q.byObject[n.About].retry.Failing() {
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
	var q lines
	now := time.Unix(1e9, 0)
	quietOne := Event{About: corev1.ObjectReference{Name: "quiet"}}
	q.add(now, quietOne)
	var dropped uint64
	for range 2 * maxEvents {
		dropped += q.add(now, Event{About: corev1.ObjectReference{Name: "loud"}})
	}
	n, _ := q.next(now)
	if dropped != maxEvents+1 || q.count != maxEvents || n == nil || n.About.Name != "quiet" {
		t.Errorf("%d dropped, %d wait, next %+v", dropped, q.count, n)
	}
}

// TestSpare: a spare Event displaces no other, and is not counted as dropped.
func TestSpare(t *testing.T) {
	q := New(Options{Now: time.Now, Log: fakekube.Quiet()})
	for i := range maxEvents {
		q.AddSpare(Event{About: corev1.ObjectReference{Name: fmt.Sprint("node-", i)}})
	}
	for i := range maxEvents / 2 {
		q.Add(Event{About: corev1.ObjectReference{Name: fmt.Sprint("nodeeni-", i)}})
	}
	q.AddSpare(Event{About: corev1.ObjectReference{Name: "late"}})
	if q.lines.count != maxEvents || q.Dropped() != 0 || q.lines.byObject[corev1.ObjectReference{Name: "late"}] != nil {
		t.Errorf("%d wait, %d dropped, want %d and 0", q.lines.count, q.Dropped(), maxEvents)
	}
}

// TestRefusedForLong: the Queue gives up an Event forbidden for longer than the API server keeps Events, but not one without answer.
func TestRefusedForLong(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "e", errors.New("RBAC"))
	for _, tc := range []struct {
		err  error
		want int
	}{{forbidden, 0}, {errors.New("connection refused"), 1}} {
		now := time.Unix(1e9, 0)
		r := New(Options{Now: func() time.Time { return now }, Log: fakekube.Quiet()})
		r.Add(Event{About: corev1.ObjectReference{Name: "a"}})
		said := spell{log: fakekube.Quiet()}
		for _, want := range []int{1, tc.want} {
			n, _ := r.next()
			if n == nil {
				t.Fatal("nothing to send")
			}
			r.sent(n, tc.err, &said)
			if r.lines.count != want {
				t.Errorf("%v: %d wait, want %d", tc.err, r.lines.count, want)
			}
			now = now.Add(refusedLatest)
		}
	}
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
