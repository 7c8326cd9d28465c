package eventqueue

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
)

const (
	// maxEvents bounds the queue.
	maxEvents = 256
	// refusedLatest is how long an Event is offered to an API server that forbids it: as long as the server keeps Events,
	// an hour (--event-ttl of kube-apiserver).
	refusedLatest = time.Hour
)

// lines holds waiting Events. Events about one object stay in order. Objects do not wait for each other: an object whose Event failed
// is retried at its own time, one such object at a time. The zero value is empty. It must not be used concurrently.
type lines struct {
	byObject map[corev1.ObjectReference]*objectQueue
	count    int
	added    uint64
	// retry bounds the retries of all objects together.
	retry retry
}

type objectQueue struct {
	events []*waiting
	// retry has waited since the first event failed; zero before.
	retry retry
}

type waiting struct {
	Event
	// place orders all events by arrival.
	place uint64
	since time.Time
	// send is nil until the event was prepared.
	send func(context.Context) error
}

// retry is a wait after failures, and its end. The zero value has none.
type retry struct {
	backoff.Backoff
	until time.Time
}

func (r *retry) failed(now time.Time) {
	r.First, r.Cap = client.FirstRetry, client.LastRetry
	r.until = now.Add(r.Failed())
}

// add appends events, and returns how many old ones it dropped for them.
func (q *lines) add(now time.Time, events ...Event) (dropped uint64) {
	for _, n := range events {
		q.added++
		q.line(n).events = append(q.line(n).events, &waiting{Event: n, place: q.added, since: now})
		q.count++
	}
	return q.shrink()
}

func (q *lines) line(n Event) *objectQueue {
	if q.byObject == nil {
		q.byObject = map[corev1.ObjectReference]*objectQueue{}
	}
	l := q.byObject[n.About]
	if l == nil {
		l = &objectQueue{}
		q.byObject[n.About] = l
	}
	return l
}

// shrink drops the oldest events of the objects that have most, so that no object displaces the others.
func (q *lines) shrink() (dropped uint64) {
	for ; q.count > maxEvents; q.count-- {
		var most *objectQueue
		for _, l := range q.byObject {
			if most == nil || len(l.events) > len(most.events) || len(l.events) == len(most.events) && l.events[0].place < most.events[0].place {
				most = l
			}
		}
		q.removeFirst(most)
		dropped++
	}
	return dropped
}

func (q *lines) removeFirst(l *objectQueue) {
	about := l.events[0].About
	if l.events = slices.Delete(l.events, 0, 1); len(l.events) == 0 {
		delete(q.byObject, about)
	}
}

// next returns the event to send now, which stays in the queue, or else when to ask again; 0 for at the next add.
func (q *lines) next(now time.Time) (n *waiting, wait time.Duration) {
	var due *objectQueue
	for _, l := range q.byObject {
		switch {
		case !l.retry.Failing():
			if n == nil || l.events[0].place < n.place {
				n = l.events[0]
			}
		case due == nil || l.retry.until.Before(due.retry.until):
			due = l
		}
	}
	if n != nil || due == nil {
		return n, 0
	}
	later := due.retry.until
	if q.retry.until.After(later) {
		later = q.retry.until
	}
	if wait = later.Sub(now); wait > 0 {
		return nil, wait
	}
	return due.events[0], 0
}

// done removes an event that was sent or never will be. A success after a failure makes the other failed ones due at once.
func (q *lines) done(n *waiting, sent bool) {
	l := q.byObject[n.About]
	if sent {
		q.retry = retry{}
	}
	if l == nil {
		return
	}
	if sent && l.retry.Failing() {
		for _, other := range q.byObject {
			other.retry.until = time.Time{}
		}
	}
	l.retry = retry{}
	if l.events[0] == n { // else it was given up meanwhile
		q.removeFirst(l)
		q.count--
	}
}

func (q *lines) failed(n *waiting, now time.Time) {
	l := q.byObject[n.About]
	if l == nil {
		return
	}
	if l.retry.Failing() || !q.retry.Failing() {
		q.retry.failed(now)
	}
	l.retry.failed(now)
}

func (q *lines) failing() bool {
	for _, l := range q.byObject {
		if l.retry.Failing() {
			return true
		}
	}
	return false
}
