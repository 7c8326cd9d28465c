package reconcile

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
)

// How IMDS is asked.
const (
	// metadataWait is how long a Sync waits for the answer. One that comes later
	// is for the next Sync: a slow IMDS holds nothing else up.
	metadataWait = 300 * time.Millisecond
	// metadataTimeout is how long an answer may take at all.
	metadataTimeout = 20 * time.Second
	// metadataFresh is how long an answer is good for while nothing is on its
	// way: pods that come and go are no reason to ask again.
	metadataFresh = 10 * time.Second
	// metadataApart is the least time between two questions while something is on
	// its way: a device may be pending for days, and pods come and go meanwhile.
	// The loop's first retry comes no sooner. IMDS drops what exceeds 1,024
	// packets per second.
	metadataApart = retryFirst
	// metadataBackOff is the longest wait after failures; it doubles from a
	// second.
	metadataBackOff = 30 * time.Second
)

// metadataCache keeps the last answer of IMDS.
type metadataCache struct {
	answer   inventory.Fact[[]awsnode.ENI]
	err      error
	asked    time.Time
	failures int
	// pending gets the answer to the question that is on its way; nil when none
	// is.
	pending chan metadataAnswer
	// settled is Sync's: no device is waiting for news. One that is drained, for
	// days where its pod stays, is not.
	settled bool
}

type metadataAnswer struct {
	enis []awsnode.ENI
	err  error
}

// get returns the latest answer, after asking anew where that may help.
func (m *metadataCache) get(ctx context.Context, from Metadata, now time.Time) (inventory.Fact[[]awsnode.ENI], error) {
	if m.pending == nil && m.stale(now) {
		m.asked = now
		m.pending = ask(ctx, from)
	}
	if m.pending != nil {
		ctx, cancel := context.WithTimeout(ctx, metadataWait)
		defer cancel()
		select {
		case a := <-m.pending:
			m.take(a)
		case <-ctx.Done():
		}
	}
	return m.answer, m.err
}

// ask puts the question in the background. The channel takes the answer even
// when nobody comes for it.
func ask(ctx context.Context, from Metadata) chan metadataAnswer {
	answer := make(chan metadataAnswer, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
		defer cancel()
		enis, err := from.ENIs(ctx)
		answer <- metadataAnswer{enis, err}
	}()
	return answer
}

func (m *metadataCache) take(a metadataAnswer) {
	m.pending, m.err = nil, a.err
	if a.err != nil {
		m.failures++
		m.answer = inventory.Fact[[]awsnode.ENI]{}
		return
	}
	m.failures, m.answer = 0, inventory.Known(a.enis)
}

// stale says whether to ask again. A clock that was set back makes it so.
func (m *metadataCache) stale(now time.Time) bool {
	age := now.Sub(m.asked)
	switch {
	case age < 0:
		return true
	case m.err != nil:
		return age >= min(time.Second<<min(m.failures-1, 10), metadataBackOff)
	}
	return !m.answer.Known || !m.settled && age >= metadataApart || age >= metadataFresh
}
