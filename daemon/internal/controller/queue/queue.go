// Package queue runs calls in a bounded number of goroutines, the most urgent first, and keeps times at which something is due.
package queue

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Pool runs calls. It is safe for concurrent use.
type Pool struct {
	ctx     context.Context //nolint:containedctx // the calls end with it
	workers int

	mu      sync.Mutex
	running int
	calls   calls
	order   int
	idle    sync.WaitGroup
}

// New returns a Pool that runs at most workers calls at once. After the end of ctx it begins none.
func New(ctx context.Context, workers int) *Pool { return &Pool{ctx: ctx, workers: workers} }

type call struct {
	urgency, order int
	run            func(context.Context)
}

// Do runs a call, and returns at once. Calls of greater urgency begin first, equal ones in order.
func (p *Pool) Do(urgency int, run func(context.Context)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order++
	heap.Push(&p.calls, call{urgency, p.order, run})
	if p.running < p.workers {
		p.running++
		p.idle.Go(p.work)
	}
}

func (p *Pool) work() {
	for {
		p.mu.Lock()
		if p.ctx.Err() != nil || len(p.calls) == 0 {
			p.running--
			p.mu.Unlock()
			return
		}
		next, _ := heap.Pop(&p.calls).(call)
		p.mu.Unlock()
		next.run(p.ctx)
	}
}

// Wait returns when no call runs. Call it after the end of ctx.
func (p *Pool) Wait() { p.idle.Wait() }

type calls []call

func (c calls) Len() int { return len(c) }
func (c calls) Less(i, j int) bool {
	return c[i].urgency > c[j].urgency || c[i].urgency == c[j].urgency && c[i].order < c[j].order
}
func (c calls) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *calls) Push(x any)   { *c = append(*c, x.(call)) } //nolint:errcheck,forcetypeassert // Do pushes only calls
func (c *calls) Pop() any {
	last := len(*c) - 1
	x := (*c)[last]
	(*c)[last] = call{}
	*c = (*c)[:last]
	return x
}

// Times has the time at which each key is due. It must not be used concurrently.
type Times struct {
	at    map[string]time.Time
	order due
}

type entry struct {
	at  time.Time
	key string
}

// Set makes a key due at a time, instead of any other; the zero time is never.
func (t *Times) Set(key string, at time.Time) {
	if t.at == nil {
		t.at = map[string]time.Time{}
	}
	if at.Equal(t.at[key]) {
		return
	}
	if at.IsZero() {
		delete(t.at, key)
		return
	}
	t.at[key] = at
	heap.Push(&t.order, entry{at, key})
}

// Next returns the next time at which a key is due; zero for none.
func (t *Times) Next() time.Time {
	for len(t.order) > 0 && !t.at[t.order[0].key].Equal(t.order[0].at) {
		heap.Pop(&t.order)
	}
	if len(t.order) == 0 {
		return time.Time{}
	}
	return t.order[0].at
}

// Due removes and returns a key that is due; "" for none.
func (t *Times) Due(now time.Time) string {
	next := t.Next()
	if next.IsZero() || next.After(now) {
		return ""
	}
	e, _ := heap.Pop(&t.order).(entry)
	delete(t.at, e.key)
	return e.key
}

type due []entry

func (d due) Len() int           { return len(d) }
func (d due) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d due) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *due) Push(x any)        { *d = append(*d, x.(entry)) } //nolint:errcheck,forcetypeassert // Set pushes only entries
func (d *due) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	*d = (*d)[:last]
	return x
}

// Earlier returns the earlier one of two times; zero is never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Later returns the later one of two times.
func Later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
