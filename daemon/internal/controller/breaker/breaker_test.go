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
		b.Try(create("a"))
		b.Ended(create("a"), refused(vpc.EC2SubnetFull), now)
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
	b.Try(create("a"))
	if _, ok := b.Closed(create("a"), now); ok {
		t.Error("a second slot tries, too")
	}
	b.Ended(create("a"), nil, now)
	if _, ok := b.Closed(create("a"), now); !ok || len(b) != 0 {
		t.Errorf("a success leaves %v", b)
	}
}

func TestForbidden(t *testing.T) {
	b := breaker.Breakers{}
	b.Try(create("a"))
	b.Ended(create("a"), refused(vpc.EC2Forbidden), t0)
	if open, ok := b.Closed(create("b"), t0.Add(5*time.Minute-1)); ok || open.Reason != lifecycle.Forbidden {
		t.Errorf("closed %v, %+v", ok, open)
	}
	if _, ok := b.Closed(create("b"), t0.Add(5*time.Minute)); !ok {
		t.Error("open for more than 5 minutes")
	}
	b.Ended(create("a"), errors.New("the guard"), t0)
	b.Ended(create("a"), refused(vpc.EC2Throttled), t0)
	if len(b) != 1 {
		t.Errorf("breakers %v", b)
	}
}

// TestForbiddenByALook: a forbidden call about an ENI opens nothing before a look has shown that the ENI is still there.
func TestForbiddenByALook(t *testing.T) {
	b := breaker.Breakers{}
	detach := lifecycle.Step{Do: lifecycle.Detach, ENI: "eni-1"}
	b.Try(detach)
	b.Ended(detach, refused(vpc.EC2Forbidden), t0)
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
	b.Try(detach)
	b.Ended(detach, refused(vpc.EC2Forbidden), now)
	if _, ok := b.Closed(detach, now.Add(time.Second)); ok {
		t.Error("another slot tries during the look")
	}
	b.Try(detach)
	if b.Ended(detach, nil, now); len(b) != 0 {
		t.Errorf("a success leaves %v", b)
	}
}

func TestUnauthenticated(t *testing.T) {
	b := breaker.Breakers{}
	b.Try(create("a"))
	b.Ended(create("a"), refused(vpc.EC2Unauthenticated), t0)
	if open, ok := b.Closed(create("b"), t0.Add(30*time.Second-1)); ok || open.Reason != lifecycle.Unauthenticated {
		t.Errorf("closed %v, %+v", ok, open)
	}
	if _, ok := b.Closed(create("b"), t0.Add(30*time.Second)); !ok {
		t.Error("nobody tries again")
	}
}
