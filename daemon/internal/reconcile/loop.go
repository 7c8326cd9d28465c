package reconcile

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
)

// When Sync runs without any event.
const (
	resyncEvery = 60 * time.Second // how often Sync runs in any case
	// retryFirst and retryLatest bound the waits while something is under way; they double, and
	// begin anew with each event. For the first retrySoon times they stay below retryNext: an ENI
	// is in the instance metadata some seconds after its device, without an event.
	retryFirst  = 250 * time.Millisecond
	retryNext   = 500 * time.Millisecond
	retrySoon   = 45
	retryLatest = 5 * time.Second
	syncApart   = 50 * time.Millisecond // the least time between two Syncs
)

// Run calls sync at once, after each wake, and when its Outcome asks for it, one call after the
// other, until ctx ends. Wakes during a call count as one. A failed sync is not an end.
func Run(ctx context.Context, sync func(context.Context) Outcome, wake <-chan struct{}) {
	p := pace{}
	for {
		wait := p.next(sync(ctx))
		if !sleep(ctx, syncApart) {
			return
		}
		timer := time.NewTimer(wait - syncApart)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-wake:
			timer.Stop()
			p.event()
		case <-timer.C:
		}
	}
}

type pace struct {
	retry backoff.Backoff
	times int // the number of waits since the last event
}

func (p *pace) event() { *p = pace{} }

func (p *pace) next(o Outcome) time.Duration {
	wait := resyncEvery
	if o.Unsettled {
		p.retry.First, p.retry.Cap = retryFirst, retryLatest
		if p.times++; p.times <= retrySoon {
			p.retry.Cap = retryNext
		}
		wait = p.retry.Failed()
	} else {
		p.event()
	}
	if o.After > 0 {
		wait = min(wait, o.After)
	}
	return wait
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// clock is the steady clock, by which this package and the actors wait. Nobody can set it: it
// is the time since boot, counted from 1970, and means something in this boot only. All times
// that are kept until a later Sync, or in the checkpoint, are of this clock. The wall clock is
// for people, and for comparisons with times that other programs write.
type clock struct {
	uptime func() (time.Duration, error) // nil: wall is never set
	wall   func() time.Time
	last   time.Time
}

func (c *clock) now() time.Time {
	if c.uptime == nil {
		return c.wall()
	}
	up, err := c.uptime()
	if err != nil { // no kernel that runs this program fails here
		return c.last
	}
	c.last = time.Unix(0, 0).UTC().Add(up)
	return c.last
}
