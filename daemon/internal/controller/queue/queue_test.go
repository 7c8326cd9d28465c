package queue_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/queue"
)

func TestPoolIsBoundedAndUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := queue.New(ctx, 1)
		var got []string
		add := func(urgency int, name string) {
			p.Do(urgency, func(context.Context) {
				time.Sleep(time.Second)
				got = append(got, name)
			})
		}
		add(0, "first")
		synctest.Wait()
		add(0, "bulk 1")
		add(0, "bulk 2")
		add(1, "release")
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"first", "release", "bulk 1", "bulk 2"}; !slices.Equal(got, want) {
			t.Errorf("ran %v, want %v", got, want)
		}
		add(0, "last")
		add(0, "never")
		cancel()
		p.Wait()
		if slices.Contains(got, "never") {
			t.Errorf("ran %v after the end", got)
		}
	})
}

func TestTimes(t *testing.T) {
	t0 := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var q queue.Times
	if !q.Next().IsZero() || q.Due(t0) != "" {
		t.Error("the zero value has something due")
	}
	q.Set("a", t0.Add(2*time.Second))
	q.Set("b", t0.Add(time.Second))
	q.Set("c", t0)
	q.Set("a", t0.Add(3*time.Second))
	q.Set("c", time.Time{})
	if got := q.Next(); !got.Equal(t0.Add(time.Second)) {
		t.Errorf("next %v", got)
	}
	var got []string
	for s := range 4 {
		for key := q.Due(t0.Add(time.Duration(s) * time.Second)); key != ""; key = q.Due(t0.Add(time.Duration(s) * time.Second)) {
			got = append(got, key)
		}
	}
	if !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("due %v", got)
	}
}
