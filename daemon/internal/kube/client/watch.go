package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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

// Watch opens a watch, and reports how that went. A watch that stands in for a list becomes a quorum read. The caller gives the answer to
// Patience's Bound or Events.
func Watch[A any](ctx context.Context, opts metav1.ListOptions, report func(error), open func(context.Context, metav1.ListOptions) (A, error)) (A, *Patience,
	error) {
	opts.Watch = true
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	if initial {
		opts.ResourceVersion = ""
	}
	patient, p := newPatience(ctx, opts)
	p.initial = initial
	answer, err := open(patient, opts)
	if err != nil {
		err = p.failed(err)
	}
	report(WatchError(err, initial))
	return answer, p, err
}

// WatchError returns the API server's fault that ended a watch. A refusal of initial events is none (ErrNoNews): the reflector then lists,
// as it does with an older server.
func WatchError(err error, initial bool) error {
	if initial && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)) {
		return ErrNoNews
	}
	return err
}

// ListAgain lists, once more if the server has forgotten the later pages, and reports an error.
func ListAgain[L runtime.Object](ctx context.Context, report func(error), pages func(context.Context) (L, error)) (runtime.Object, error) {
	list, err := pages(ctx)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		list, err = pages(ctx)
	}
	if err != nil {
		report(err)
		return nil, err
	}
	return list, nil
}

// Patience ends a request without answer for answerTimeout, and any request watchGrace after its watch's requested time:
// a server that died without closing the connection ends nothing.
type Patience struct {
	timer *time.Timer
	cause func() error
	end   func()
	// initial: the events that stand in for a list have not ended yet.
	initial bool
}

// newPatience returns the context to ask with.
func newPatience(ctx context.Context, opts metav1.ListOptions) (context.Context, *Patience) {
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

// answered stops the wait for an answer.
func (p *Patience) answered() { p.timer.Stop() }

// failed ends the request and adds to its error that there was no answer.
func (p *Patience) failed(err error) error {
	if errors.Is(p.cause(), ErrNoAnswer) {
		err = fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	p.stop()
	return err
}

// stop ends the request.
func (p *Patience) stop() {
	p.timer.Stop()
	p.end()
}

// Bound returns an answered request's watch. Its Stop also ends the request.
func (p *Patience) Bound(w watch.Interface) watch.Interface {
	p.answered()
	return &boundedWatch{Interface: w, patience: p}
}

type boundedWatch struct {
	watch.Interface
	patience *Patience
}

func (w *boundedWatch) Stop() {
	w.patience.stop()
	w.Interface.Stop()
}

// Events returns an answered request's watch, whose events decode reads from body. The watch compares io.EOF and io.ErrUnexpectedEOF, so decode
// must leave them as they are.
func (p *Patience) Events(body io.Closer, decode func() (watch.EventType, runtime.Object, error)) watch.Interface {
	if !p.initial {
		p.answered()
	}
	return watch.NewStreamWatcher(&events{body, p, decode},
		apierrors.NewClientErrorReporter(http.StatusInternalServerError, http.MethodGet, "ClientWatchDecoding"))
}

// events implements watch.Decoder.
type events struct {
	body     io.Closer
	patience *Patience
	decode   func() (watch.EventType, runtime.Object, error)
}

// Close may be called while Decode waits.
func (e *events) Close() {
	e.patience.stop()
	e.body.Close() //nolint:errcheck,gosec // nothing was written
}

// Decode reads one event. An initial event must come within answerTimeout after the one before.
func (e *events) Decode() (watch.EventType, runtime.Object, error) {
	kind, o, err := e.decode()
	if err != nil || !e.patience.initial {
		return kind, o, err
	}
	e.patience.timer.Reset(answerTimeout)
	if i, ok := o.(metav1.Object); ok && kind == watch.Bookmark && i.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
		e.patience.initial = false
		e.patience.answered()
	}
	return kind, o, nil
}
