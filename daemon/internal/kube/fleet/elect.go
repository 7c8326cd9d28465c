package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
)

// LeaseName is the name of the Lease whose holder may write. It is the public controller's.
const LeaseName = "nodeeni-controller-leader-election"

// Times of the election. Another process takes a Lease that it has seen unchanged for leaseDuration.
const (
	leaseDuration   = 15 * time.Second
	renewDeadline   = 10 * time.Second
	retryPeriod     = 2 * time.Second
	electionTimeout = 5 * time.Second
	// fenceMargin is how long before the Lease's end nothing is sent any more: a request may be under way that long.
	fenceMargin = 3 * time.Second
)

// holderPrefix tells our holders from the public controller's.
const holderPrefix = "multi-enid-controller_"

func newHolder(identity string) string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	return holderPrefix + identity + "_" + hex.EncodeToString(random[:])
}

// lease knows until when this process surely holds the Lease.
type lease struct {
	mu    sync.Mutex
	until time.Time
	// leading: Elect's function runs.
	leading bool
}

// Fence is nil while this process surely holds the Lease: by the monotonic clock, counted from the moment before the last renewal was sent,
// with a margin. Ask it right before a call that only the leader may make. It wraps ErrNotLeader.
func (f *Fleet) Fence() error {
	f.lease.mu.Lock()
	defer f.lease.mu.Unlock()
	switch left := f.lease.until.Sub(f.options.Now()); {
	case !f.lease.leading:
		return ErrNotLeader
	case left <= 0:
		return fmt.Errorf("%w: the Lease was last renewed too long ago", ErrNotLeader)
	}
	return nil
}

// Leading says whether Elect's function runs.
func (f *Fleet) Leading() bool {
	f.lease.mu.Lock()
	defer f.lease.mu.Unlock()
	return f.lease.leading
}

// Elect runs lead while this process holds the Lease, again and again until ctx ends. Lead's context ends when the Lease is lost, and with
// ctx; lead must then return soon. After ctx the Lease is given back once lead has returned.
func (f *Fleet) Elect(ctx context.Context, lead func(context.Context)) error {
	for ctx.Err() == nil {
		if err := f.campaign(ctx, lead); err != nil {
			return err
		}
		backoff.Sleep(ctx, retryPeriod)
	}
	return nil
}

// campaign returns when the Lease was lost or ctx has ended, after lead.
func (f *Fleet) campaign(ctx context.Context, lead func(context.Context)) error {
	lock := &fencedLock{fleet: f, LeaseLock: resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: f.options.Namespace, Name: LeaseName}, Client: f.election.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: f.holder},
	}}
	// The Lease is renewed until lead has returned, even after ctx.
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	// led is closed by whoever is first: the end of lead, or the end of the campaign without it.
	led := make(chan struct{})
	var first atomic.Bool
	begin := func(held context.Context) {
		if first.CompareAndSwap(false, true) {
			defer close(led)
			f.lead(ctx, held, lead)
		}
		stop()
	}
	never := func() {
		if first.CompareAndSwap(false, true) {
			close(led)
			stop()
		}
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: begin, OnStoppedLeading: func() {}},
	})
	if err != nil {
		return fmt.Errorf("begin the election: %w", err)
	}
	defer context.AfterFunc(ctx, never)()
	elector.Run(renewing)
	never()
	<-led
	lock.release() //nolint:contextcheck // ctx has ended
	return nil
}

// lead calls lead until ctx or held ends.
func (f *Fleet) lead(ctx, held context.Context, lead func(context.Context)) {
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(held, cancel)()
	f.lease.lead(true)
	defer f.lease.lead(false)
	f.options.Log.WithField("holder", f.holder).Info("leader now")
	defer f.options.Log.WithField("holder", f.holder).Info("leader no more")
	lead(both)
}

func (l *lease) lead(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = on
}

func (l *lease) renewed(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = sent.Add(leaseDuration - fenceMargin)
}

// fencedLock notes when each renewal was sent.
type fencedLock struct {
	resourcelock.LeaseLock
	fleet *Fleet
	held  bool
}

// Create makes the Lease.
func (l *fencedLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.noted(r, func() error { return l.LeaseLock.Create(ctx, r) })
}

// Update renews or takes the Lease.
func (l *fencedLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.noted(r, func() error { return l.LeaseLock.Update(ctx, r) })
}

func (l *fencedLock) noted(r resourcelock.LeaderElectionRecord, write func() error) error {
	sent := l.fleet.options.Now()
	err := write()
	if err == nil && r.HolderIdentity == l.Identity() {
		l.held = true
		l.fleet.lease.renewed(sent)
	}
	return err
}

// release gives the Lease back if it is still ours.
func (l *fencedLock) release() {
	if !l.held {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), electionTimeout) //nolint:forbidigo // the caller's has ended
	defer cancel()
	record, _, err := l.Get(ctx)
	if err != nil || record.HolderIdentity != l.Identity() {
		return // it runs out
	}
	record.HolderIdentity, record.LeaseDurationSeconds = "", 1
	if err := l.Update(ctx, *record); err != nil {
		l.fleet.options.Log.WithError(err).Debug("Lease not given back; it runs out")
	}
}

// ours says whether a Lease's holder is a multi-enid controller.
func ours(holder string) bool { return strings.HasPrefix(holder, holderPrefix) }
