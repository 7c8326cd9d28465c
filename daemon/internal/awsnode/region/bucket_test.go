package region

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// TestBucketRate: a burst passes at once, then the rate; a pause fills it again.
func TestBucketRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(4, 20, time.Now)
		for round := range 2 {
			begin := time.Now()
			for range 20 + 8 {
				if err := b.Wait(t.Context(), vpc.PriorityBulk); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(begin).Round(time.Millisecond); took != 2*time.Second {
				t.Errorf("round %d: 28 calls took %v, want 2s", round, took)
			}
			time.Sleep(time.Hour)
		}
	})
}

// TestThrottled: the rate halves once for all calls that were under way, down to the least, and grows by a tenth each second.
func TestThrottled(t *testing.T) {
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6 {
			t.Errorf("%s: rate %v, want %v", what, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(4, 20, time.Now)
		sent := time.Now()
		time.Sleep(time.Second)
		for range 10 {
			b.Throttled(sent)
		}
		near("ten at once", b.Rate(), 2)
		begin := time.Now()
		if err := b.Wait(t.Context(), vpc.PriorityRelease); err != nil || time.Since(begin) < 400*time.Millisecond {
			t.Errorf("the burst is still there: %v, %v", time.Since(begin), err)
		}
		time.Sleep(time.Second - time.Since(begin))
		near("a second later", b.Rate(), 2.2)
		time.Sleep(time.Minute)
		near("a minute later", b.Rate(), 4)
		for range 20 {
			time.Sleep(time.Millisecond)
			sent := time.Now()
			time.Sleep(time.Millisecond)
			b.Throttled(sent)
		}
		near("again and again", b.Rate(), slowest)
		time.Sleep(38 * time.Second)
		if r := b.Rate(); r >= 4 {
			t.Errorf("38 s later: rate %v", r)
		}
		time.Sleep(time.Second)
		near("39 s later", b.Rate(), 4)
	})
}

// TestTokensOfGrowth compares refill's closed form with many small steps.
func TestTokensOfGrowth(t *testing.T) {
	for _, after := range []time.Duration{time.Second, 7 * time.Second, 20 * time.Second} {
		at := time.Unix(0, 0)
		b := &bucket{now: func() time.Time { return at }, full: 4, most: 1e9, rate: 1, at: at}
		rate, tokens := 1.0, 0.0
		for range 100_000 {
			step := after.Seconds() / 1e5
			tokens += rate * step
			rate = min(rate*math.Pow(recovery, step), 4)
		}
		at = at.Add(after)
		b.refill()
		if math.Abs(b.tokens-tokens) > 1e-3 || math.Abs(b.rate-rate) > 1e-6 {
			t.Errorf("%v: %v tokens at rate %v, want %v at %v", after, b.tokens, b.rate, tokens, rate)
		}
	}
}

// TestBucketOrder: waiters pass by priority and then by their coming, each once, and whoever gives up takes no token.
func TestBucketOrder(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 22))
			b := newBucket(4, 1, time.Now)
			if err := b.Wait(t.Context(), vpc.PrioritySweep); err != nil {
				t.Fatal(err)
			}
			type one struct {
				priority vpc.Priority
				n        int
				gives    bool
			}
			var mu sync.Mutex
			var passed []one
			var want []one
			var wg sync.WaitGroup
			begin := time.Now()
			for n := range 1 + r.IntN(30) {
				w := one{priority: vpc.Priority(r.IntN(4) - 2), n: n, gives: r.IntN(3) == 0}
				if !w.gives {
					want = append(want, w)
				}
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if w.gives {
						time.AfterFunc(time.Duration(n)*time.Millisecond, cancel)
					}
					switch err := b.Wait(ctx, w.priority); {
					case w.gives != errors.Is(err, context.Canceled):
						t.Errorf("seed %d: %+v: %v", seed, w, err)
					case err == nil:
						mu.Lock()
						passed = append(passed, w)
						mu.Unlock()
					}
				})
				synctest.Wait()
			}
			wg.Wait()
			slices.SortStableFunc(want, func(a, b one) int { return int(a.priority - b.priority) })
			if fmt.Sprint(passed) != fmt.Sprint(want) {
				t.Errorf("seed %d: passed\n%v, want\n%v", seed, passed, want)
			}
			if took := time.Since(begin).Round(time.Millisecond); len(want) > 0 && took != time.Duration(len(want))*250*time.Millisecond {
				t.Errorf("seed %d: %d passed in %v", seed, len(want), took)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.waiting) != 0 {
				t.Errorf("seed %d: %d wait still", seed, len(b.waiting))
			}
		})
	}
}

// TestGivenUpBefore: a dead context takes no token.
func TestGivenUpBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(4, 1, time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 5 {
			if err := b.Wait(ctx, vpc.PriorityRelease); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
		begin := time.Now()
		if err := b.Wait(t.Context(), vpc.PriorityBulk); err != nil || time.Since(begin) > 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}
