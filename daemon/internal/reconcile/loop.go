package reconcile

import (
	"context"
	"time"
)

// When Sync runs without any event.
const (
	// resyncEvery is how often everything is looked at in any case.
	resyncEvery = 60 * time.Second
	// retryFirst and retryLatest bound the waits while something is on its way;
	// they double, and begin anew with each event. For the first retrySoon times
	// they grow to no more than retryNext: an ENI is in the instance metadata
	// some seconds after its device, and nothing tells when.
	retryFirst  = 250 * time.Millisecond
	retryNext   = 500 * time.Millisecond
	retrySoon   = 45
	retryLatest = 5 * time.Second
	// syncApart is the least time between two Syncs, whatever the events.
	syncApart = 50 * time.Millisecond
)

// Run calls sync at once, after each wake, and when its Outcome asks for it,
// one call after the other, until ctx ends. Wakes that come while it runs are
// one. A failed sync is not an end.
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

// pace chooses the waits between Syncs.
type pace struct {
	// retry is the last wait while unsettled; 0 for none.
	retry time.Duration
	// times is how often it was waited since the last event.
	times int
}

// event begins the waits anew.
func (p *pace) event() { *p = pace{} }

func (p *pace) next(o Outcome) time.Duration {
	wait := resyncEvery
	if o.Unsettled {
		most := retryLatest
		if p.times++; p.times <= retrySoon {
			most = retryNext
		}
		p.retry = min(max(2*p.retry, retryFirst), most)
		wait = p.retry
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
