package fleet

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// candidate is a process that stands for election.
type candidate struct {
	*Fleet
	// leads: its function runs. terms counts them.
	leads atomic.Bool
	terms atomic.Int32
	// lingers is how long its function goes on after its context has ended.
	lingers time.Duration
	// deaf: its requests fail.
	deaf atomic.Bool
	stop context.CancelFunc
	done chan struct{}
}

func stand(t *testing.T, s *apiServer, lingers time.Duration) *candidate {
	t.Helper()
	c := &candidate{lingers: lingers, done: make(chan struct{})}
	config := s.direct()
	direct := config.Transport
	config.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		if c.deaf.Load() {
			return nil, errors.New("connection refused")
		}
		return direct.RoundTrip(r)
	})
	c.Fleet = connect(t, config)
	ctx, cancel := context.WithCancel(t.Context())
	c.stop = cancel
	go func() {
		defer close(c.done)
		if err := c.Elect(ctx, func(ctx context.Context) {
			c.terms.Add(1)
			c.leads.Store(true)
			defer c.leads.Store(false)
			<-ctx.Done()
			time.Sleep(c.lingers)
		}); err != nil {
			t.Error(err)
		}
	}()
	return c
}

// watchElection checks each 100 ms that at most one may send, and returns after that time.
func watchElection(t *testing.T, lasts time.Duration, all ...*candidate) {
	t.Helper()
	for range lasts / (100 * time.Millisecond) {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		sending := 0
		for _, c := range all {
			if c.Fence() == nil {
				sending++
			}
		}
		if sending > 1 {
			t.Fatal("two may send")
		}
	}
}

// leadingOf returns the one that may send, and the other.
func leadingOf(t *testing.T, a, b *candidate) (leader, other *candidate) {
	t.Helper()
	switch {
	case a.Fence() == nil:
		return a, b
	case b.Fence() == nil:
		return b, a
	}
	t.Fatalf("nobody leads: %v, %v", a.Fence(), b.Fence())
	return nil, nil
}

func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAPIServer(t, true)
		a, b := stand(t, s, time.Second), stand(t, s, time.Second)
		watchElection(t, time.Minute, a, b)
		first, second := leadingOf(t, a, b)
		if !first.Leading() || second.Leading() || !errors.Is(second.Fence(), ErrNotLeader) {
			t.Error("leading and Fence differ")
		}

		// A clean end gives the Lease back, after the function's end.
		first.stop()
		synctest.Wait()
		if !first.leads.Load() {
			t.Error("the function does not linger")
		}
		<-first.done
		watchElection(t, 5*time.Second, a, b)
		if got, _ := leadingOf(t, a, b); got != second {
			t.Error("the Lease was not given back")
		}

		// A leader that reaches no API server may not send after 12 s, and its function's context ends after 10 to 12 s.
		third := stand(t, s, 0)
		watchElection(t, 10*time.Second, a, b, third)
		second.deaf.Store(true)
		watchElection(t, 14*time.Second, second, third)
		if second.Fence() == nil || second.leads.Load() {
			t.Error("a leader without API server goes on")
		}
		watchElection(t, 10*time.Second, second, third)
		if got, _ := leadingOf(t, second, third); got != third {
			t.Error("nobody took the Lease")
		}
		second.deaf.Store(false)
		watchElection(t, time.Minute, second, third)
		if second.terms.Load() != 1 || third.terms.Load() != 1 {
			t.Errorf("%d and %d terms", second.terms.Load(), third.terms.Load())
		}
		second.stop()
		third.stop()
		<-second.done
		<-third.done
	})
}

// TestFrozenLeader: a process that was stopped for longer than its Lease, and resumes, may not send at once.
func TestFrozenLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := connect(t, newAPIServer(t, true).direct())
		f.lease.lead(true)
		f.lease.renewed(time.Now())
		if err := f.Fence(); err != nil {
			t.Error(err)
		}
		time.Sleep(leaseDuration - fenceMargin)
		if err := f.Fence(); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Fence is %v", err)
		}
	})
}

// TestEndWithoutElection: a candidate that was never elected ends with its context, and changes no Lease.
func TestEndWithoutElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newAPIServer(t, true)
		a := stand(t, s, 0)
		watchElection(t, 5*time.Second, a)
		b := stand(t, s, 0)
		watchElection(t, 5*time.Second, a, b)
		b.stop()
		<-b.done
		if a.Fence() != nil || b.terms.Load() != 0 || *s.leases["own"].Spec.HolderIdentity != a.holder {
			t.Error("the Lease has changed hands")
		}
		a.stop()
		<-a.done
		if *s.leases["own"].Spec.HolderIdentity != "" {
			t.Error("the Lease was not given back")
		}
	})
}

func TestClusterUID(t *testing.T) {
	s := newAPIServer(t, true)
	f := connect(t, s.direct())
	if uid, err := f.ClusterUID(t.Context()); uid != "uid-cluster" || err != nil {
		t.Errorf("%q, %v", uid, err)
	}
	s.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		fakekube.Refuse(w, http.StatusForbidden)
		return true
	}
	if _, err := f.ClusterUID(t.Context()); !errors.Is(err, ErrForbidden) {
		t.Error(err)
	}
}
