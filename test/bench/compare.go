package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

// settle is the pause before each measured run. The kernel destroys host-device's temporary netns after
// the plugin has ended, and delays other programs meanwhile: with a pause of 30 ms the floor took half as
// long again after host-device.
const settle = 100 * time.Millisecond

type effort struct{ pods, warmUp, rounds int }

func (e effort) pairs() int { return e.pods * e.rounds }

var (
	one   = effort{pods: 1, warmUp: 3, rounds: 50}
	side  = effort{pods: 8, warmUp: 1, rounds: 10}  // as a busy runtime starts them
	crowd = effort{pods: 100, warmUp: 1, rounds: 3} // at most
)

// timed has the times of pairs of ADD and DEL, and of all ADDs side by side until the last had ended, in milliseconds.
type timed struct{ add, del, allAdded table.Sample }

func (t timed) sum() table.Sample { return t.add.Plus(t.del) }

func (n *node) compare(ctx context.Context, e effort, ways ...way) (map[way]timed, error) {
	all := map[way][]contender{}
	for _, w := range ways {
		var err error
		if all[w], err = n.contenders(w, e.pods); err != nil {
			return nil, fmt.Errorf("%s: %w", w, err)
		}
	}
	out := map[way]timed{}
	for i := range e.warmUp + e.rounds {
		for _, w := range ways {
			t, err := pairs(ctx, all[w]...)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w, err)
			}
			if i >= e.warmUp {
				sum := out[w]
				out[w] = timed{slices.Concat(sum.add, t.add), slices.Concat(sum.del, t.del), slices.Concat(sum.allAdded, t.allAdded)}
			}
		}
	}
	return out, nil
}

// pairs is one ADD of each contender side by side, then one DEL of each, from links that are up. It checks their effects.
func pairs(ctx context.Context, all ...contender) (t timed, err error) {
	if err := settled(ctx, all, func(c contender) place { return c.host }); err != nil {
		return t, err
	}
	begin := time.Now()
	if t.add, err = together(ctx, all, func(c contender) program { return c.add }); err != nil {
		return t, err
	}
	t.allAdded.Add(time.Since(begin))
	if err := settled(ctx, all, func(c contender) place { return c.pod }); err != nil {
		return t, fmt.Errorf("after ADD: %w", err)
	}
	if t.del, err = together(ctx, all, func(c contender) program { return c.del }); err != nil {
		return t, err
	}
	for _, c := range all {
		if c.pod.links == nil {
			continue
		}
		switch _, err := c.pod.links.ByName(c.pod.name); {
		case err == nil:
			return t, fmt.Errorf("after DEL the pod still has %s", c.pod.name)
		case !errors.Is(err, link.ErrNotFound):
			return t, fmt.Errorf("after DEL: %w", err)
		}
	}
	return t, nil
}

// settled brings the links up and waits until the kernel has finished the work of earlier runs.
func settled(ctx context.Context, all []contender, where func(contender) place) error {
	moving := slices.DeleteFunc(slices.Clone(all), func(c contender) bool { return where(c).links == nil })
	for _, c := range moving {
		p := where(c)
		l, err := p.links.ByName(p.name)
		if err != nil {
			return err
		}
		if err := p.links.SetUp(l.Index); err != nil {
			return err
		}
	}
	if len(moving) == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
		return nil
	}
}

// together runs a program of each contender side by side, and returns the time of each, in order.
func together(ctx context.Context, all []contender, verb func(contender) program) (table.Sample, error) {
	took, errs := make([]time.Duration, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { took[i], errs[i] = verb(c).run(ctx) })
	}
	wg.Wait()
	var each table.Sample
	for _, d := range took {
		each.Add(d)
	}
	return each, errors.Join(errs...)
}
