package kernelevents

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
)

// TestRunWakesAfterSubscribingAgain: events were lost between two subscriptions, so the daemon is woken when the second has begun.
func TestRunWakesAfterSubscribingAgain(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var did []string
	steps := []func() (<-chan struct{}, error){
		func() (<-chan struct{}, error) { // one event, then an overflow
			events := make(chan struct{}, 1)
			events <- struct{}{}
			close(events)
			return events, nil
		},
		func() (<-chan struct{}, error) { return nil, errors.New("no buffer") },
		func() (<-chan struct{}, error) {
			events := make(chan struct{})
			close(events)
			return events, nil
		},
	}
	services := &problem.Services{}
	Follower{
		Name: "links", Services: services, Wake: func() { did = append(did, "look") },
		Subscribe: func(context.Context) (<-chan struct{}, error) {
			step := steps[0]
			steps = steps[1:]
			events, err := step()
			did = append(did, "subscribe")
			if err != nil {
				did = append(did, "fails")
			}
			return events, err
		},
		Pause: func(_ context.Context, d time.Duration) bool {
			did = append(did, "wait "+d.String())
			for _, p := range services.Problems() {
				did = append(did, string(p.Reason))
			}
			if len(steps) == 0 {
				cancel()
			}
			return ctx.Err() == nil
		},
	}.Run(ctx)
	want := []string{"subscribe", "look", "wait 100ms", "subscribe", "fails", "wait 200ms", "KernelEventsUnseen", "subscribe", "look", "wait 400ms"}
	if !slices.Equal(did, want) {
		t.Errorf("did %q, want %q", did, want)
	}
}

func TestWaitsAreBounded(t *testing.T) {
	var last time.Duration
	times := 0
	Follower{
		Name: "links", Services: &problem.Services{}, Wake: func() {},
		Subscribe: func(context.Context) (<-chan struct{}, error) { return nil, errors.New("no") },
		Pause: func(_ context.Context, d time.Duration) bool {
			if d > lastWait || d < last {
				t.Errorf("waits %v after %v", d, last)
			}
			last = d
			times++
			return times < 50
		},
	}.Run(t.Context())
}
