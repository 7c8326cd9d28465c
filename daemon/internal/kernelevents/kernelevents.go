// Package kernelevents wakes the daemon after events of the kernel, and subscribes again whenever a subscription ends.
package kernelevents

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// The waits before subscribing again double from the first to the last, and begin anew with the next event. A subscription ends when the
// kernel has more events than its buffer takes (ENOBUFS, netlink(7)). Events are lost then, so Run wakes the daemon after the next begins.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
)

// Follower follows one kind of event.
type Follower struct {
	// Name names the things that change, for the Problem.
	Name string
	// Subscribe returns a channel that is closed when the subscription ends.
	Subscribe func(context.Context) (<-chan struct{}, error)
	Wake      func()
	Services  *problem.Services
	// Pause waits, and says whether ctx is still alive. Nil waits by the clock.
	Pause func(ctx context.Context, d time.Duration) bool
}

// Run follows the events until ctx ends.
func (f Follower) Run(ctx context.Context) {
	if f.Pause == nil {
		f.Pause = backoff.Sleep
	}
	wait := backoff.Backoff{First: firstWait, Cap: lastWait}
	again := false
	for {
		events, err := f.Subscribe(ctx)
		f.Services.Report(f.Name, nodestate.Problem{Reason: reason.KernelEventsUnseen, Message: "changes of " + f.Name +
			" are seen within a minute instead of at once: the kernel's events cannot be read; the daemon tries again, and its log has the error"}, err)
		if err == nil {
			if again {
				f.Wake()
			}
			for range events {
				if wait.Reset(); ctx.Err() == nil {
					f.Wake()
				}
			}
		}
		if !f.Pause(ctx, wait.Failed()) {
			return
		}
		again = true
	}
}
