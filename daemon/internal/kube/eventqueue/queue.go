// Package eventqueue sends Events: like ones counted, in the order of each object, and none lost while the API server is away.
package eventqueue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Event is one to send.
type Event struct {
	About corev1.ObjectReference
	// Kind is corev1.EventTypeNormal or EventTypeWarning.
	Kind, Reason, Message string
}

// Options configure a Queue. All are needed but Host.
type Options struct {
	Core kubernetes.Interface
	// Component and Host say who sends.
	Component, Host string
	Now             func() time.Time
	Log             logrus.FieldLogger
}

// Queue holds Events while the API server takes none; a full queue drops the oldest. Its methods are safe for concurrent use.
type Queue struct {
	options Options
	sender  sender
	// added holds a token when there is work.
	added chan struct{}

	mu      sync.Mutex
	lines   lines
	dropped uint64
}

// New returns a Queue that sends nothing until Run.
func New(o Options) *Queue {
	return &Queue{options: o, sender: newSender(o), added: make(chan struct{}, 1)}
}

// Add queues Events. It does not block.
func (q *Queue) Add(events ...Event) {
	if len(events) == 0 {
		return
	}
	q.mu.Lock()
	q.dropped += q.lines.add(q.options.Now(), events...)
	q.mu.Unlock()
	select {
	case q.added <- struct{}{}:
	default:
	}
}

// AddSpare queues an Event that repeats another about a second object, unless the queue is half full. A fault of all nodes at once
// then displaces no other Event.
func (q *Queue) AddSpare(event Event) {
	q.mu.Lock()
	full := q.lines.count >= maxEvents/2
	q.mu.Unlock()
	if !full {
		q.Add(event)
	}
}

// Dropped counts the Events given up.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// eventTimeout bounds one call for an Event; the others wait for it.
const eventTimeout = 5 * time.Second

// Run sends Events until ctx ends. Call it once.
func (q *Queue) Run(ctx context.Context) {
	spell := spell{log: q.options.Log.WithField("object", "Event")}
	for {
		n, wait := q.next()
		if n == nil {
			var later <-chan time.Time // for ever, without a time
			if wait > 0 {
				later = time.After(wait)
			}
			select {
			case <-ctx.Done():
				return
			case <-q.added:
			case <-later:
			}
			continue
		}
		if n.send == nil {
			n.send = q.sender.prepare(n.Event)
		}
		err := send(ctx, n)
		if ctx.Err() != nil {
			return
		}
		q.sent(n, err, &spell)
	}
}

func send(ctx context.Context, n *waiting) error {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	return n.send(ctx)
}

func (q *Queue) next() (*waiting, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines.next(q.options.Now())
}

func (q *Queue) sent(n *waiting, err error, spell *spell) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.options.Now()
	switch {
	case err == nil:
		q.lines.done(n, true)
	case !retriable(err) || apierrors.IsForbidden(err) && now.Sub(n.since) >= refusedLatest:
		q.lines.done(n, false)
		q.dropped++
		spell.log.WithError(err).WithFields(logrus.Fields{"reason": n.Reason, "about": n.About.Kind + " " + n.About.Name}).
			Warn("the API server takes no such Event, it is given up")
	default:
		q.lines.failed(n, now)
		spell.failed(err)
	}
	if !q.lines.failing() {
		spell.over()
	}
}

// retriable says whether the API server may accept the same Event later. It will not if it found a fault with it, or if the namespace is gone (404)
// or terminating: a 403 with a cause (Admit in pkg/admission/plugin/namespace/lifecycle/admission.go of k8s.io/apiserver).
// Any other 403 may be a permission that somebody grants.
func retriable(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return false
	}
	code := status.Status().Code
	return code >= 500 || code == 401 || code == 403 || code == 408 || code == 429
}

// spell lasts while any Event waits after a failure. It logs each kind of failure once, and its own end.
type spell struct {
	log  logrus.FieldLogger
	said map[metav1.StatusReason]bool
}

func (s *spell) failed(err error) {
	reason := apierrors.ReasonForError(err)
	if s.said[reason] {
		return
	}
	if s.said == nil {
		s.said = map[metav1.StatusReason]bool{}
	}
	s.said[reason] = true
	s.log.WithError(err).Warn("Events cannot be sent")
}

func (s *spell) over() {
	if len(s.said) > 0 {
		s.log.Info("Events are sent again")
	}
	s.said = nil
}
