package report

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// eventTimeout bounds one call for an Event; the others wait for it.
const eventTimeout = 5 * time.Second

func (r *Reporter) sendEvents(ctx context.Context) {
	spell := eventSpell{log: r.Log.WithField("object", "Event")}
	for {
		n, wait := r.next()
		if n == nil {
			var later <-chan time.Time // for ever, without a time
			if wait > 0 {
				later = time.After(wait)
			}
			select {
			case <-ctx.Done():
				return
			case <-r.queued:
			case <-later:
			}
			continue
		}
		if n.send == nil {
			n.send = r.sender.prepare(n.event)
		}
		err := sendEvent(ctx, n)
		if ctx.Err() != nil {
			return
		}
		r.sent(n, err, &spell)
	}
}

func sendEvent(ctx context.Context, n *queuedEvent) error {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	return n.send(ctx)
}

func (r *Reporter) next() (*queuedEvent, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.next(r.Now())
}

func (r *Reporter) sent(n *queuedEvent, err error, spell *eventSpell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	switch {
	case err == nil:
		r.queue.done(n, true)
	case !retriable(err) || apierrors.IsForbidden(err) && now.Sub(n.since) >= refusedLatest:
		r.queue.done(n, false)
		r.dropped++
		spell.log.WithError(err).WithFields(logrus.Fields{"reason": string(n.reason), "about": n.about.Kind + " " + n.about.Name}).
			Warn("the API server takes no such Event, it is given up")
	default:
		r.queue.failed(n, now)
		spell.failed(err)
	}
	if !r.queue.failing() {
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

// eventSpell lasts while any Event waits after a failure. It logs each kind of failure once, and its own end.
type eventSpell struct {
	log  logrus.FieldLogger
	said map[metav1.StatusReason]bool
}

func (s *eventSpell) failed(err error) {
	reason := apierrors.ReasonForError(err)
	if s.said[reason] {
		return
	}
	if s.said == nil {
		s.said = map[metav1.StatusReason]bool{}
	}
	s.said[reason] = true
	s.log.WithError(err).Warn("cluster cannot be told of this node")
}

func (s *eventSpell) over() {
	if len(s.said) > 0 {
		s.log.Info("cluster can be told of this node again")
	}
	s.said = nil
}
