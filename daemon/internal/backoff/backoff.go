// Package backoff has the wait after failures, which doubles with each failure in
// a row. Where client-go wants its own type, wait.Backoff stays.
package backoff

import (
	"context"
	"time"
)

// Backoff is the state of retries. The zero value waits 0 for ever: set First and Cap before the first Failed. Either may change between
// two failures. It must not be used concurrently.
type Backoff struct {
	// First is the wait after the first failure, and Cap the longest; First ≤ Cap.
	First, Cap time.Duration

	wait time.Duration
}

// Failed notes a failure and returns the next wait: First, or twice the wait before, at most Cap.
func (b *Backoff) Failed() time.Duration {
	b.wait = min(max(2*b.wait, b.First), b.Cap)
	return b.wait
}

// Wait returns the wait after the last failure; 0 without one.
func (b *Backoff) Wait() time.Duration { return b.wait }

// Failing means: there was a failure since the last Reset.
func (b *Backoff) Failing() bool { return b.wait > 0 }

// Reset notes a success: the next failure waits First again.
func (b *Backoff) Reset() { b.wait = 0 }

// Sleep waits for d and says whether ctx is still alive.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
