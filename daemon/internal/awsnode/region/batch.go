package region

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

const (
	// A batch is asked idle after its last value, and most after its first. If none of its callers is more urgent than PriorityBulk, it waits
	// longer: EC2's rate then spaces the values, and a batch is to have many.
	batchIdle = 100 * time.Millisecond
	batchMost = time.Second
	bulkIdle  = time.Second
	bulkMost  = 5 * time.Second
	// batchValues is EC2's limit for the values of a filter.
	batchValues = 200
)

// answer is EC2's for one value of a batch.
type answer[V any] struct {
	value V
	err   error
}

// batcher gathers questions for one value each into one call. It is safe for concurrent use.
type batcher[V any] struct {
	// ask returns an answer for each value, in order.
	ask func(ctx context.Context, values []string) []answer[V]

	mu   sync.Mutex
	open *batch[V] // takes further values; nil without
}

type batch[V any] struct {
	values   []string
	index    map[string]int
	priority vpc.Priority
	ctx      context.Context //nolint:containedctx // one call for several callers: it ends when the last of them has given up
	cancel   context.CancelFunc
	callers  int
	first    time.Time
	timer    *time.Timer
	done     chan struct{} // closed when answers are there
	answers  []answer[V]
}

// Ask returns EC2's answer for a value. It may be shared with other callers.
func (b *batcher[V]) Ask(ctx context.Context, now func() time.Time, value string) (V, error) {
	at := b.join(ctx, now(), value)
	select {
	case <-at.done:
		a := at.answers[at.index[value]]
		return a.value, a.err
	case <-ctx.Done():
		b.leave(at)
		var none V
		return none, context.Cause(ctx)
	}
}

func (b *batcher[V]) join(ctx context.Context, now time.Time, value string) *batch[V] {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.open
	if at == nil {
		at = &batch[V]{index: map[string]int{}, priority: vpc.PrioritySweep, first: now, done: make(chan struct{})}
		at.ctx, at.cancel = context.WithCancel(context.WithoutCancel(ctx))
		at.timer = time.AfterFunc(bulkIdle, func() { b.close(at) })
		b.open = at
	}
	at.callers++
	at.priority = min(at.priority, vpc.PriorityOf(ctx))
	if _, there := at.index[value]; !there {
		at.index[value] = len(at.values)
		at.values = append(at.values, value)
	}
	if len(at.values) >= batchValues {
		at.timer.Stop()
		b.open = nil
		go b.run(at) //nolint:contextcheck // a batch belongs to several callers
		return at
	}
	idle, most := batchIdle, batchMost
	if at.priority >= vpc.PriorityBulk {
		idle, most = bulkIdle, bulkMost
	}
	at.timer.Reset(min(idle, at.first.Add(most).Sub(now)))
	return at
}

// close ends a batch's gathering; a timer may fire once more after that.
func (b *batcher[V]) close(at *batch[V]) {
	b.mu.Lock()
	ours := b.open == at
	if ours {
		b.open = nil
	}
	b.mu.Unlock()
	if ours {
		b.run(at)
	}
}

func (b *batcher[V]) run(at *batch[V]) {
	at.answers = b.ask(vpc.WithPriority(at.ctx, at.priority), slices.Clone(at.values))
	close(at.done)
	at.cancel()
}

// leave ends the call when nobody waits for it any longer. Whoever joins an open batch later starts another one.
func (b *batcher[V]) leave(at *batch[V]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at.callers--; at.callers > 0 {
		return
	}
	at.cancel()
	if b.open == at {
		at.timer.Stop()
		b.open = nil
	}
}
