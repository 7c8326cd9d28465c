package region

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// asked notes each call of a batcher: when, with which values and priority. A value "bad…" has an error, any other answers itself.
type asked struct {
	mu    sync.Mutex
	calls []string
	batch batcher[string]
	takes time.Duration
}

func newAsked() *asked {
	a := &asked{}
	begin := time.Now()
	a.batch.ask = func(ctx context.Context, values []string) []answer[string] {
		a.mu.Lock()
		a.calls = append(a.calls, fmt.Sprint(time.Since(begin), " ", vpc.PriorityOf(ctx), " ", values))
		a.mu.Unlock()
		var out []answer[string]
		select {
		case <-time.After(a.takes):
		case <-ctx.Done():
			a.mu.Lock()
			a.calls = append(a.calls, fmt.Sprint(time.Since(begin), " ended"))
			a.mu.Unlock()
		}
		for _, v := range values {
			if len(v) > 3 && v[:3] == "bad" {
				out = append(out, answer[string]{err: errors.New(v)})
			} else {
				out = append(out, answer[string]{value: v})
			}
		}
		return out
	}
	return a
}

func (a *asked) made() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

func TestBatch(t *testing.T) {
	const single = vpc.PrioritySingle
	type question struct {
		at       time.Duration
		value    string
		priority vpc.Priority // 0 is PriorityBulk
	}
	each := func(n int, every time.Duration, p vpc.Priority) (q []question) {
		for i := range n {
			q = append(q, question{at: time.Duration(i) * every, value: fmt.Sprint(i), priority: p})
		}
		return q
	}
	for name, tt := range map[string]struct {
		questions []question
		want      []string
	}{
		"one":             {each(1, 0, single), []string{"100ms -1 [0]"}},
		"the same twice":  {[]question{{value: "a", priority: single}, {at: 10 * time.Millisecond, value: "a", priority: single}}, []string{"110ms -1 [a]"}},
		"idle in between": {each(2, 150*time.Millisecond, single), []string{"100ms -1 [0]", "250ms -1 [1]"}},
		"never idle":      {each(13, 90*time.Millisecond, single), []string{"1s -1 [0 1 2 3 4 5 6 7 8 9 10 11]", "1.18s -1 [12]"}},
		"an error":        {[]question{{value: "a", priority: single}, {at: time.Millisecond, value: "bad one"}}, []string{"101ms -1 [a bad one]"}},
		"the most urgent counts": {[]question{{value: "a", priority: vpc.PrioritySweep}, {at: time.Millisecond, value: "b", priority: vpc.PriorityRelease},
			{at: 2 * time.Millisecond, value: "c", priority: vpc.PriorityBulk}}, []string{"102ms -2 [a b c]"}},
		"sweep":    {each(1, 0, vpc.PrioritySweep), []string{"1s 1 [0]"}},
		"one bulk": {each(1, 0, vpc.PriorityBulk), []string{"1s 0 [0]"}},
		"bulk at the default rate": {each(24, 240*time.Millisecond, vpc.PriorityBulk),
			[]string{"5s 0 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20]", "6.52s 0 [21 22 23]"}},
		"an urgent one ends the patience": {
			append(each(8, 250*time.Millisecond, vpc.PriorityBulk), question{at: 1800 * time.Millisecond, value: "a", priority: single}),
			[]string{"1.8s -1 [0 1 2 3 4 5 6 7 a]"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAsked()
				var wg sync.WaitGroup
				for _, q := range tt.questions {
					wg.Go(func() {
						time.Sleep(q.at)
						got, err := a.batch.Ask(vpc.WithPriority(t.Context(), q.priority), time.Now, q.value)
						if bad := q.value == "bad one"; bad != (err != nil) || !bad && got != q.value {
							t.Errorf("%s: %q, %v", q.value, got, err)
						}
					})
				}
				wg.Wait()
				if diff := cmp.Diff(tt.want, a.made()); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestBatchOf200(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsked()
		var wg sync.WaitGroup
		begin := time.Now()
		for i := range batchValues + 1 {
			wg.Go(func() {
				if _, err := a.batch.Ask(vpc.WithPriority(t.Context(), vpc.PrioritySingle), time.Now, fmt.Sprintf("%03d", i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := len(a.made()); n != 1 {
			t.Errorf("%d calls at once, want one of %d", n, batchValues)
		}
		wg.Wait()
		if n, took := len(a.made()), time.Since(begin); n != 2 || took != batchIdle {
			t.Errorf("%d calls in %v", n, took)
		}
	})
}

// TestBatchGivenUp: a caller that gives up leaves the others their answer; the last one ends the call, or lets none be made.
func TestBatchGivenUp(t *testing.T) {
	for name, tt := range map[string]struct {
		patience []time.Duration // of each caller
		takes    time.Duration
		want     []string
	}{
		"one of two":        {[]time.Duration{50 * time.Millisecond, time.Hour}, time.Second, []string{"100ms -1 [0 1]"}},
		"both before":       {[]time.Duration{50 * time.Millisecond, 60 * time.Millisecond}, time.Second, nil},
		"both under way":    {[]time.Duration{500 * time.Millisecond, 600 * time.Millisecond}, time.Second, []string{"100ms -1 [0 1]", "600ms ended"}},
		"the first of both": {[]time.Duration{time.Hour, 500 * time.Millisecond}, time.Second, []string{"100ms -1 [0 1]"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAsked()
				a.takes = tt.takes
				errs := make([]error, len(tt.patience))
				var wg sync.WaitGroup
				for i, patience := range tt.patience {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						_, errs[i] = a.batch.Ask(vpc.WithPriority(ctx, vpc.PrioritySingle), time.Now, fmt.Sprint(i))
					})
					synctest.Wait()
				}
				wg.Wait()
				for i, err := range errs {
					if gaveUp := tt.patience[i] < time.Second; gaveUp != errors.Is(err, context.DeadlineExceeded) || !gaveUp && err != nil {
						t.Errorf("caller %d: %v", i, err)
					}
				}
				synctest.Wait()
				if diff := cmp.Diff(tt.want, a.made()); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestDivide: one refused value fails alone, and a question refused for all costs a bounded number of calls.
func TestDivide(t *testing.T) {
	var values []string
	for i := range 100 {
		values = append(values, fmt.Sprint(i))
	}
	refused := &vpc.EC2Error{Kind: vpc.EC2Refused, Err: errors.New("refused")}
	for name, tt := range map[string]struct {
		bad  func(string) bool
		most int
		want int // errors
	}{
		"none": {func(string) bool { return false }, 1, 0},
		"one":  {func(v string) bool { return v == "42" }, 16, 1},
		"all":  {func(string) bool { return true }, 2 * divisions, 100},
	} {
		calls := 0
		got := divide(t.Context(), values, func(vs []string) (out []answer[string], err error) {
			calls++
			if slices.ContainsFunc(vs, tt.bad) {
				return nil, refused
			}
			for _, v := range vs {
				out = append(out, answer[string]{value: v})
			}
			return out, nil
		})
		failed := 0
		for i, a := range got {
			if a.err != nil {
				failed++
			}
			if (a.err != nil) != tt.bad(values[i]) || a.err == nil && a.value != values[i] {
				t.Errorf("%s: %s: %v", name, values[i], a)
			}
		}
		if calls > tt.most || failed != tt.want || len(got) != len(values) {
			t.Errorf("%s: %d calls, %d of %d failed", name, calls, failed, len(got))
		}
	}
}
