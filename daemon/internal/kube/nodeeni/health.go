package nodeeni

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// APIState says whether the daemon follows the NodeENIs and its own Node.
type APIState struct {
	// Reachable: it follows both. False also before the first answers, with no Reason.
	Reachable bool
	// Reason is Unreachable, Unauthorized, Forbidden, NoCRD or NoNode.
	Reason nodestate.Reason
	// Since is when this state began; zero before the first answers.
	Since time.Time
	// LastSync is the last complete read of the NodeENIs, zero for never. While Reachable, every change since was followed.
	LastSync time.Time
}

var (
	errNotRead = errors.New("not read yet")
	errNoNode  = errors.New("there is no Node object of this name; correct --node-name if the node has another")
)

type part int

const (
	partNodeENIs part = iota
	partNodes
	partOwnNode // whether it exists
	parts
)

// fault is why a part cannot be followed; the zero value is no fault.
type fault struct {
	reason nodestate.Reason
	err    error
}

// classify returns the fault of an answer. It is false for an answer without one, such as a forgotten version, which is read anew.
func classify(p part, err error) (fault, bool) {
	switch {
	case err == nil:
		return fault{}, true
	case errors.Is(err, client.ErrNoNews), apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return fault{}, false
	case errors.Is(err, errNoNode):
		return fault{reason.NoNode, err}, true
	case apierrors.IsUnauthorized(err):
		return fault{reason.Unauthorized, err}, true
	case apierrors.IsForbidden(err):
		return fault{reason.Forbidden, err}, true
	case apierrors.IsNotFound(err) && p == partNodeENIs:
		return fault{reason.NoCRD, err}, true
	default:
		return fault{reason.Unreachable, err}, true
	}
}

// health is the API server's state by its answers. It is safe for concurrent use.
type health struct {
	now func() time.Time
	log logrus.FieldLogger
	// changed holds a token when the state has changed.
	changed chan struct{}
	// recovered is called when the API server is followed again after a trouble. It must return at once.
	recovered func()

	mu          sync.Mutex
	known       [parts]bool
	faults      [parts]fault
	state       APIState
	troubled    bool // since it was last followed
	cause       error
	lastSync    time.Time
	transitions transitions
}

func newHealth(now func() time.Time, log logrus.FieldLogger) *health {
	h := &health{now: now, log: log, changed: make(chan struct{}, 1), recovered: func() {}}
	h.known[partOwnNode] = true // until it was looked for, partNodes speaks for it
	return h
}

// report notes an answer; nil is a good one.
func (h *health) report(p part, err error) {
	if f, says := classify(p, err); says && h.note(p, f) {
		h.recovered()
	}
}

// note returns whether a trouble is over.
func (h *health) note(p part, f fault) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known[p], h.faults[p] = true, f
	worst, all := h.worst()
	reachable := all && worst.reason == ""
	h.cause = worst.err
	if reachable == h.state.Reachable && worst.reason == h.state.Reason {
		return false
	}
	over := reachable && h.troubled
	h.troubled = !reachable && (h.troubled || worst.reason != "")
	h.state = APIState{Reachable: reachable, Reason: worst.reason, Since: h.now()}
	if reachable || worst.reason != "" {
		h.transitions.observe(h.state.Since, worst.reason)
	}
	select {
	case h.changed <- struct{}{}:
	default:
	}
	return over
}

// worst returns the most telling fault, and whether all parts have answered.
func (h *health) worst() (worst fault, all bool) {
	all = true
	for _, why := range []nodestate.Reason{reason.Unreachable, reason.Unauthorized, reason.Forbidden, reason.NoCRD, reason.NoNode} {
		for p := range parts {
			all = all && h.known[p]
			if worst.reason == "" && h.faults[p].reason == why {
				worst = h.faults[p]
			}
		}
	}
	return worst, all
}

func (h *health) synced() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSync = h.now()
}

func (h *health) get() APIState {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.state
	out.LastSync = h.lastSync
	return out
}

// why returns the present fault's cause, or that nothing was read yet.
func (h *health) why() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause != nil {
		return h.cause
	}
	return errNotRead
}

func (h *health) run(ctx context.Context) {
	for {
		var later <-chan time.Time // for ever, without a time
		if wait := h.say(); wait > 0 {
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-h.changed:
		case <-later:
		}
	}
}

// say logs the state if due, and returns when to ask again; 0 for at the next change.
func (h *health) say() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	due, wait := h.transitions.due(h.now())
	if !due {
		return wait
	}
	lasted := h.transitions.done()
	if h.state.Reachable {
		h.log.WithField("after", lasted.Round(time.Second)).Info("API server is followed again")
		return 0
	}
	h.log.WithFields(logrus.Fields{"reason": string(h.state.Reason), "remedy": remedy(h.state.Reason)}).WithError(h.cause).
		Warn("API server cannot be followed, what it said last still holds")
	return 0
}

func remedy(why nodestate.Reason) string {
	switch why {
	case reason.Unauthorized:
		return "check the service account's token or the kubeconfig"
	case reason.Forbidden:
		return "grant the service account what deploy/rbac.yaml has"
	case reason.NoCRD:
		return "install the CustomResourceDefinition in deploy/crd"
	case reason.NoNode:
		return "correct --node-name, or wait for the kubelet to register this node"
	default:
		return "none is needed if the API server comes back"
	}
}

// settleTime is how long a state must last to be logged: a restarting API server passes through several.
const settleTime = 3 * time.Second

// otherTime is how long another trouble must last to be logged, longer than the reflectors wait between tries.
// A starting API server denies everything until it has read its roles.
const otherTime = 45 * time.Second

// transitions decides when to log a change of state. A trouble that comes and goes is logged once, and ends after settleTime without it.
type transitions struct {
	// is is the reason of the trouble since the time since; "" for none.
	is    nodestate.Reason
	since time.Time
	// said is the last logged reason; "" also for nothing yet.
	said nodestate.Reason
	// trouble is the start of the present spell of trouble.
	trouble time.Time
}

func (h *transitions) observe(now time.Time, why nodestate.Reason) {
	if why == h.is {
		return
	}
	if h.is == "" && (h.trouble.IsZero() || now.Sub(h.since) >= settleTime) {
		h.trouble = now
	}
	h.is, h.since = why, now
}

// due says whether to log the state now, or when to ask again; 0 for at the next change.
func (h *transitions) due(now time.Time) (bool, time.Duration) {
	if h.is == h.said {
		return false, 0
	}
	from, settle := h.since, settleTime
	switch {
	case h.said == "":
		from = h.trouble
	case h.is != "":
		settle = otherTime
	}
	if wait := from.Add(settle).Sub(now); wait > 0 {
		return false, wait
	}
	return true, 0
}

// done notes that the state was logged, and returns how long the trouble before it lasted.
func (h *transitions) done() time.Duration {
	h.said = h.is
	return h.since.Sub(h.trouble)
}
