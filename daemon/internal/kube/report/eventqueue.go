package report

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
)

const (
	// maxNotes is how many Events wait for the API server at most.
	maxNotes = 256
	// refusedLatest is how long an Event is offered to an API server that forbids
	// it. The server itself forgets Events after an hour (--event-ttl of
	// kube-apiserver).
	refusedLatest = time.Hour
)

// noteQueue holds the Events that wait. Those about one object leave in their
// order. Objects do not wait for each other: an object whose Event has failed is
// tried again at its own time, and no two such objects at once. The zero value
// is empty. It must not be used concurrently.
type noteQueue struct {
	lines map[corev1.ObjectReference]*noteLine
	count int
	added uint64
	// retry bounds the retries of all objects together.
	retry retry
}

// noteLine has the waiting notes about one object.
type noteLine struct {
	notes []*waitingNote
	// retry has waited since the first note failed; zero while none has.
	retry retry
}

// waitingNote is one Event.
type waitingNote struct {
	note
	// place orders all notes by their arrival.
	place uint64
	since time.Time
	// send is nil until the note was prepared.
	send func(context.Context) error
}

// retry is a wait after failures, and when it ends. The zero value has none.
type retry struct {
	backoff.Backoff
	until time.Time
}

func (r *retry) failed(now time.Time) {
	r.First, r.Cap = client.FirstRetry, client.LastRetry
	r.until = now.Add(r.Failed())
}

// add appends notes, and returns how many old ones it gave up to make room.
func (q *noteQueue) add(now time.Time, notes ...note) (dropped uint64) {
	for _, n := range notes {
		q.added++
		q.line(n).notes = append(q.line(n).notes, &waitingNote{note: n, place: q.added, since: now})
		q.count++
	}
	return q.shrink()
}

func (q *noteQueue) line(n note) *noteLine {
	if q.lines == nil {
		q.lines = map[corev1.ObjectReference]*noteLine{}
	}
	l := q.lines[n.about]
	if l == nil {
		l = &noteLine{}
		q.lines[n.about] = l
	}
	return l
}

// shrink gives up the oldest notes of those objects that have most, so that one
// object does not push the others out.
func (q *noteQueue) shrink() (dropped uint64) {
	for ; q.count > maxNotes; q.count-- {
		var most *noteLine
		for _, l := range q.lines {
			if most == nil || len(l.notes) > len(most.notes) || len(l.notes) == len(most.notes) && l.notes[0].place < most.notes[0].place {
				most = l
			}
		}
		q.removeFirst(most)
		dropped++
	}
	return dropped
}

func (q *noteQueue) removeFirst(l *noteLine) {
	about := l.notes[0].about
	if l.notes = slices.Delete(l.notes, 0, 1); len(l.notes) == 0 {
		delete(q.lines, about)
	}
}

// next returns the note to be sent now. Without one it returns after how long to
// ask again; 0 for not before the next add. The note stays in the queue.
func (q *noteQueue) next(now time.Time) (n *waitingNote, wait time.Duration) {
	var due *noteLine
	for _, l := range q.lines {
		switch {
		case !l.retry.Failing():
			if n == nil || l.notes[0].place < n.place {
				n = l.notes[0]
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
	return due.notes[0], 0
}

// done takes a note away that was sent, or will never be. A success after a
// failure has the other failed ones tried at once.
func (q *noteQueue) done(n *waitingNote, sent bool) {
	l := q.lines[n.about]
	if sent {
		q.retry = retry{}
	}
	if l == nil {
		return
	}
	if sent && l.retry.Failing() {
		for _, other := range q.lines {
			other.retry.until = time.Time{}
		}
	}
	l.retry = retry{}
	if l.notes[0] == n { // else it was given up meanwhile
		q.removeFirst(l)
		q.count--
	}
}

// failed notes that a note has to be tried again.
func (q *noteQueue) failed(n *waitingNote, now time.Time) {
	l := q.lines[n.about]
	if l == nil {
		return
	}
	if l.retry.Failing() || !q.retry.Failing() {
		q.retry.failed(now)
	}
	l.retry.failed(now)
}

// failing says whether any object waits to be tried again.
func (q *noteQueue) failing() bool {
	for _, l := range q.lines {
		if l.retry.Failing() {
			return true
		}
	}
	return false
}
