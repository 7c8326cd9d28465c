package region

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

const (
	// defaultQPS and defaultBurst are for one action.
	defaultQPS, defaultBurst = 4, 20
	// slowest is the least rate after throttling, a second.
	slowest = 0.1
	// recovery is how a throttled rate grows each second.
	recovery = 1.1
)

// bucket lets the calls of one action pass: a burst, then some a second, by priority. It is safe for concurrent use.
type bucket struct {
	now        func() time.Time
	full, most float64 // the configured rate, and the burst

	mu      sync.Mutex
	rate    float64 // at the time at
	tokens  float64
	at      time.Time
	slowed  time.Time // the last halving
	waiting []*waiter // sorted by priority, then by their coming
	timer   *time.Timer
}

type waiter struct {
	priority vpc.Priority
	pass     chan struct{} // closed when it may go
}

func newBucket(qps float64, burst int, now func() time.Time) *bucket {
	return &bucket{now: now, full: qps, most: float64(burst), rate: qps, tokens: float64(burst), at: now()}
}

// Wait returns when a call may be sent, or with the context's error. A waiter that has given up takes no token.
func (b *bucket) Wait(ctx context.Context, p vpc.Priority) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.mu.Lock()
	w := &waiter{priority: p, pass: make(chan struct{})}
	i, _ := slices.BinarySearchFunc(b.waiting, p, func(w *waiter, p vpc.Priority) int {
		if w.priority <= p {
			return -1
		}
		return 1
	})
	b.waiting = slices.Insert(b.waiting, i, w)
	b.serve()
	b.mu.Unlock()
	select {
	case <-w.pass:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i = slices.Index(b.waiting, w)
	if i < 0 { // it has passed meanwhile
		b.tokens = min(b.tokens+1, b.most)
	} else {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	b.serve()
	return context.Cause(ctx)
}

// serve lets waiters pass as long as there are tokens, and comes back when there is the next.
func (b *bucket) serve() {
	b.refill()
	for len(b.waiting) > 0 && b.tokens >= 1 {
		b.tokens--
		close(b.waiting[0].pass)
		b.waiting = slices.Delete(b.waiting, 0, 1)
	}
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if len(b.waiting) > 0 {
		// The rate may grow until then, so this is late at the most by that; the timer must not be early.
		wait := time.Duration(math.Ceil((1 - b.tokens) / b.rate * float64(time.Second)))
		b.timer = time.AfterFunc(wait, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.serve()
		})
	}
}

// refill brings rate and tokens to the present.
func (b *bucket) refill() {
	now := b.now()
	passed := now.Sub(b.at).Seconds()
	if passed <= 0 {
		return
	}
	b.at = now
	if b.rate < b.full {
		// The tokens of an exponential growth until it reaches the full rate, which takes growing seconds.
		growing := min(passed, math.Log(b.full/b.rate)/math.Log(recovery))
		next := b.rate * math.Pow(recovery, growing)
		b.tokens += (next - b.rate) / math.Log(recovery)
		b.rate, passed = next, passed-growing
		if passed > 0 {
			b.rate = b.full
		}
	}
	b.tokens = min(b.tokens+passed*b.rate, b.most)
}

// Throttled notes that EC2 has refused a call that was sent at that time. Calls that were under way at the last halving do not halve again.
func (b *bucket) Throttled(sent time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	b.tokens = min(b.tokens, 0)
	if !b.slowed.IsZero() && !sent.After(b.slowed) {
		return
	}
	b.slowed = b.now()
	b.rate = min(b.rate, max(b.rate/2, slowest))
	b.serve()
}

// Rate is the present rate, a second.
func (b *bucket) Rate() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	return b.rate
}
