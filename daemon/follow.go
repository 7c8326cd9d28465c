package main

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// follower has the node looked at after events of the kernel, and tries for ever
// to get them.
type follower struct {
	// name is of the events, as the problem has it.
	name      string
	subscribe func(context.Context) (<-chan struct{}, error)
	awake     func()
	services  *problem.Services
	// pause waits, and says whether ctx is still alive.
	pause func(ctx context.Context, d time.Duration) bool
}

// The waits before subscribing again double from the first to the latest, and
// begin anew with the next event. A subscription ends when the kernel has had
// more events than its buffer takes (ENOBUFS, netlink(7)): events are lost
// in it, and until the next begins: everything is looked at then.
const (
	resubscribeFirst  = 100 * time.Millisecond
	resubscribeLatest = 10 * time.Second
)

func (f follower) run(ctx context.Context) {
	wait, again := resubscribeFirst, false
	for {
		events, err := f.subscribe(ctx)
		f.services.Report(f.name, nodestate.Problem{Reason: reason.KernelEventsUnseen, Message: "changes of " + f.name +
			" are seen within a minute instead of at once: the kernel's events cannot be read; the daemon tries again, and its log has the error"}, err)
		if err == nil {
			if again {
				f.awake()
			}
			for range events {
				if wait = resubscribeFirst; ctx.Err() == nil {
					f.awake()
				}
			}
		}
		if !f.pause(ctx, wait) {
			return
		}
		wait, again = min(2*wait, resubscribeLatest), true
	}
}

// pause waits for d and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
