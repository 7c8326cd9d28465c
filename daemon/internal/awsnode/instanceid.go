package awsnode

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// firstAsk bounds the first request. A start waits for it: the id tells whether the Node is this instance's.
	firstAsk = 3 * time.Second
	// nextAsk is the pause between later requests, and bounds each.
	nextAsk = 30 * time.Second
)

// InstanceID is the EC2 instance's id, once IMDS has answered. It is safe for concurrent use.
type InstanceID struct{ id atomic.Pointer[string] }

// Get returns "" until IMDS has answered.
func (i *InstanceID) Get() string {
	if id := i.id.Load(); id != nil {
		return *id
	}
	return ""
}

// Learn asks once. Without an answer it goes on in the background, and calls known at last. The reconciler reports that IMDS cannot be read.
func (i *InstanceID) Learn(ctx context.Context, ask func(context.Context) (string, error), known func()) {
	once := func(wait time.Duration) bool {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		id, err := ask(ctx)
		if err == nil {
			i.id.Store(&id)
		}
		return err == nil
	}
	if once(firstAsk) {
		return
	}
	go func() {
		tick := time.NewTicker(nextAsk)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if once(nextAsk) {
				known()
				return
			}
		}
	}()
}
