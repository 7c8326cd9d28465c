package breaker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/breaker"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

var t0 = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func create(subnet string) lifecycle.Step {
	return lifecycle.Step{Do: lifecycle.Create, Slot: &slots.Slot{Subnet: subnet}}
}

func refused(kind vpc.EC2Kind) error { return &vpc.EC2Error{Kind: kind, Err: errors.New("refused")} }

func TestSubnetFull(t *testing.T) {
	b := breaker.Breakers{}
	now := t0
	for _, wait := range []time.Duration{2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute} {
		if _, ok := b.Closed(create("a"), now); !ok {
			t.Fatalf("open when its time is over, before a wait of %v", wait)
		}
		b.Try(create("a")).Ended(refused(vpc.EC2SubnetFull), now)
		open, ok := b.Closed(create("a"), now.Add(wait-1))
		if ok || open.Reason != lifecycle.SubnetFull || !open.Until.Equal(now.Add(wait)) {
			t.Errorf("after a refusal: closed %v, %+v, want until %v", ok, open, now.Add(wait))
		}
		now = now.Add(wait)
	}
	if _, ok := b.Closed(create("b"), now); !ok {
		t.Error("another subnet is held back")
	}
	if _, ok := b.Closed(lifecycle.Step{Do: lifecycle.Delete, Slot: &slots.Slot{Subnet: "a"}}, now); !ok {
		t.Error("another action is held back")
	}
	trial := b.Try(create("a"))
	if _, ok := b.Closed(create("a"), now); ok {
		t.Error("a second slot tries, too")
	}
	trial.Ended(nil, now)
	if _, ok := b.Closed(create("a"), now); !ok || len(b) != 0 {
		t.Errorf("a success leaves %v", b)
	}
}

func TestForbidden(t *testing.T) {
	b := breaker.Breakers{}
	b.Try(create("a")).Ended(refused(vpc.EC2Forbidden), t0)
	if open, ok := b.Closed(create("b"), t0.Add(5*time.Minute-1)); ok || open.Reason != lifecycle.Forbidden {
		t.Errorf("closed %v, %+v", ok, open)
	}
	if _, ok := b.Closed(create("b"), t0.Add(5*time.Minute)); !ok {
		t.Error("open for more than 5 minutes")
	}
	b.Try(create("a")).Ended(errors.New("the guard"), t0)
	b.Try(create("a")).Ended(refused(vpc.EC2Throttled), t0)
	if len(b) != 1 {
		t.Errorf("breakers %v", b)
	}
}

// TestForbiddenByALook: a forbidden call about an ENI opens nothing before a look has shown that the ENI is still there.
func TestForbiddenByALook(t *testing.T) {
	b := breaker.Breakers{}
	detach := lifecycle.Step{Do: lifecycle.Detach, ENI: "eni-1"}
	b.Try(detach).Ended(refused(vpc.EC2Forbidden), t0)
	if _, ok := b.Closed(detach, t0); !ok {
		t.Error("open before a look")
	}
	b.Forbid(lifecycle.Detach, t0)
	if _, ok := b.Closed(detach, t0.Add(5*time.Minute-1)); ok {
		t.Error("closed after a look")
	}
	if _, ok := b.Closed(lifecycle.Step{Do: lifecycle.Delete, ENI: "eni-1"}, t0); !ok {
		t.Error("another action is held back")
	}
	now := t0.Add(5 * time.Minute)
	b.Try(detach).Ended(refused(vpc.EC2Forbidden), now)
	if _, ok := b.Closed(detach, now.Add(time.Second)); ok {
		t.Error("another slot tries during the look")
	}
	if b.Try(detach).Ended(nil, now); len(b) != 0 {
		t.Errorf("a success leaves %v", b)
	}
}

func TestUnauthenticated(t *testing.T) {
	b := breaker.Breakers{}
	b.Try(create("a")).Ended(refused(vpc.EC2Unauthenticated), t0)
	if open, ok := b.Closed(create("b"), t0.Add(30*time.Second-1)); ok || open.Reason != lifecycle.Unauthenticated {
		t.Errorf("closed %v, %+v", ok, open)
	}
	if _, ok := b.Closed(create("b"), t0.Add(30*time.Second)); !ok {
		t.Error("nobody tries again")
	}
}

// TestWave: of calls that are under way when a breaker opens, none changes it. Only its trial lengthens the wait, or closes it.
func TestWave(t *testing.T) {
	for kind, first := range map[vpc.EC2Kind]time.Duration{vpc.EC2SubnetFull: 2 * time.Minute, vpc.EC2Unauthenticated: 30 * time.Second} {
		b := breaker.Breakers{}
		var wave []breaker.Call
		for range 40 {
			if _, ok := b.Closed(create("a"), t0); !ok {
				t.Fatal("open before the first refusal")
			}
			wave = append(wave, b.Try(create("a")))
		}
		wave[0].Ended(refused(kind), t0)
		until := func(want time.Time, after string) {
			t.Helper()
			if open, ok := b.Closed(create("a"), want.Add(-1)); ok || !open.Until.Equal(want) {
				t.Errorf("%s: closed %v, %+v, want until %v", after, ok, open, want)
			}
		}
		for i, c := range wave[1:20] {
			c.Ended(refused(kind), t0.Add(time.Duration(i)*time.Millisecond))
		}
		until(t0.Add(first), "after a wave of refusals")
		wave[20].Ended(nil, t0.Add(time.Second))
		until(t0.Add(first), "after a late success")

		now := t0.Add(first)
		trial := b.Try(create("a"))
		for i, err := range []error{refused(kind), nil, errors.New("the guard"), refused(vpc.EC2Throttled)} {
			wave[21+i].Ended(err, now)
			if _, ok := b.Closed(create("a"), now.Add(time.Hour)); ok {
				t.Errorf("after the end of an old call with %v: a second trial begins beside the first", err)
			}
		}
		trial.Ended(refused(kind), now)
		until(now.Add(2*first), "after the trial's refusal")
		wave[25].Ended(refused(kind), now)
		now = now.Add(2 * first)
		wave[26].Ended(refused(kind), now)
		if _, ok := b.Closed(create("a"), now); !ok {
			t.Error("an old refusal puts the next trial off")
		}
		if b.Try(create("a")).Ended(nil, now); len(b) != 0 {
			t.Errorf("a trial's success leaves %v", b)
		}
		wave[27].Ended(refused(kind), now)
		until(now.Add(first), "after a refusal while none is open")
	}
}

// TestWaveOfLooks: looks at forbidden calls of one wave do not put the trial off, and neither do further calls of it.
func TestWaveOfLooks(t *testing.T) {
	b := breaker.Breakers{}
	detach := lifecycle.Step{Do: lifecycle.Detach, ENI: "eni-1"}
	late := b.Try(detach)
	for i := range 10 {
		b.Forbid(lifecycle.Detach, t0.Add(time.Duration(i)*time.Second))
	}
	late.Ended(refused(vpc.EC2Forbidden), t0.Add(10*time.Second))
	now := t0.Add(5 * time.Minute)
	if open, ok := b.Closed(detach, now.Add(-1)); ok || !open.Until.Equal(now) {
		t.Fatalf("closed %v, %+v, want until %v", ok, open, now)
	}
	b.Try(detach).Ended(refused(vpc.EC2Forbidden), now)
	b.Forbid(lifecycle.Detach, now.Add(time.Second))
	if open, ok := b.Closed(detach, now.Add(time.Minute)); ok || !open.Until.Equal(now.Add(5*time.Minute+time.Second)) {
		t.Errorf("after the look at the trial: closed %v, %+v", ok, open)
	}
}

// TestAnotherReason: a trial that is refused for another reason tells that one, after the first wait of it.
func TestAnotherReason(t *testing.T) {
	b := breaker.Breakers{}
	b.Try(create("a")).Ended(refused(vpc.EC2Forbidden), t0)
	now := t0.Add(5 * time.Minute)
	b.Try(create("a")).Ended(refused(vpc.EC2Unauthenticated), now)
	if open, ok := b.Closed(create("a"), now); ok || open.Reason != lifecycle.Unauthenticated || !open.Until.Equal(now.Add(30*time.Second)) {
		t.Errorf("closed %v, %+v", ok, open)
	}
}
