package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// ListTimeout bounds one page of a list.
	ListTimeout = time.Minute
	// answerTimeout bounds the wait for a watch's headers, and for the next of the events that stand in for a list. The API server sends both at once.
	// A proxy may hold headers back until the first event: a bookmark, after a minute at most.
	answerTimeout = 90 * time.Second
	// watchGrace is how long a watch may outlast its requested time.
	watchGrace = time.Minute
)

// A reflector's waits after failures double from firstRetry to lastRetry, plus up to half, so that nodes do not come all at once.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 20 * time.Second
	retrySteps = 10 // more than it takes to get there
)

var (
	// ErrNoAnswer means: a request was accepted and not answered.
	ErrNoAnswer = errors.New("API server does not answer")
	// ErrNoNews is the end of a request that says nothing about the API server.
	ErrNoNews = errors.New("no news")
)

// NewRetry returns the waits of a reflector.
func NewRetry() wait.Backoff {
	return wait.Backoff{Duration: firstRetry, Cap: lastRetry, Steps: retrySteps, Factor: 2, Jitter: 0.5}
}

// FromNow makes a watch that stands in for a list a quorum read, and says whether it is one.
func FromNow(opts *metav1.ListOptions) bool {
	if opts.SendInitialEvents == nil || !*opts.SendInitialEvents {
		return false
	}
	opts.ResourceVersion = ""
	return true
}

// WatchError returns the API server's fault that ended a watch. A refusal of initial events is none (ErrNoNews): the reflector then lists,
// as it does with an older server.
func WatchError(err error, initial bool) error {
	if initial && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)) {
		return ErrNoNews
	}
	return err
}

// Patience ends a request without answer for answerTimeout, and any request watchGrace after its watch's requested time:
// a server that died without closing the connection ends nothing.
type Patience struct {
	timer *time.Timer
	cause func() error
	end   func()
}

// NewPatience returns the context to ask with.
func NewPatience(ctx context.Context, opts metav1.ListOptions) (context.Context, *Patience) {
	lasts := watchGrace
	if opts.TimeoutSeconds != nil {
		lasts += time.Duration(*opts.TimeoutSeconds) * time.Second
	}
	bounded, end := context.WithTimeout(ctx, lasts)
	patient, give := context.WithCancelCause(bounded)
	return patient, &Patience{
		timer: time.AfterFunc(answerTimeout, func() { give(ErrNoAnswer) }),
		cause: func() error { return context.Cause(patient) },
		end:   end,
	}
}

// Answered stops the wait for an answer; Await begins it anew.
func (p *Patience) Answered() { p.timer.Stop() }

// Await waits for the next answer.
func (p *Patience) Await() { p.timer.Reset(answerTimeout) }

// Failed ends the request and adds to its error that there was no answer.
func (p *Patience) Failed(err error) error {
	if errors.Is(p.cause(), ErrNoAnswer) {
		err = fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	p.Stop()
	return err
}

// Stop ends the request.
func (p *Patience) Stop() {
	p.timer.Stop()
	p.end()
}

// Bound returns an answered request's watch. Its Stop also ends the request.
func (p *Patience) Bound(w watch.Interface) watch.Interface {
	p.Answered()
	return &boundedWatch{Interface: w, patience: p}
}

type boundedWatch struct {
	watch.Interface
	patience *Patience
}

func (w *boundedWatch) Stop() {
	w.patience.Stop()
	w.Interface.Stop()
}
