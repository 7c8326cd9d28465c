package main

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// instanceWait is how long a start waits for the instance's id, without which
	// nobody can tell whether the Node is this instance's.
	instanceWait = 3 * time.Second
	// instanceRetry is how often the metadata are asked after that.
	instanceRetry = 30 * time.Second
)

// ownInstance is the id of the EC2 instance, as soon as the metadata tell it.
type ownInstance struct{ id atomic.Pointer[string] }

// ID is "" while it is not known.
func (i *ownInstance) ID() string {
	if id := i.id.Load(); id != nil {
		return *id
	}
	return ""
}

// learn asks once, and, where there is no answer, again and again in the background
// until ctx ends. It calls known when there is one.
func (i *ownInstance) learn(ctx context.Context, ask func(context.Context) (string, error), known func()) {
	once := func(wait time.Duration) bool {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		id, err := ask(ctx)
		if err == nil {
			i.id.Store(&id)
		}
		return err == nil // the reconciler reports metadata that cannot be read
	}
	if once(instanceWait) {
		return
	}
	go func() {
		tick := time.NewTicker(instanceRetry)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if once(instanceRetry) {
				known()
				return
			}
		}
	}()
}
