package events

import (
	"context"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestOverflowEndsTheSubscription: more changes than the buffer takes close the channel, so that its reader knows of
// the loss; the next subscription works.
func TestOverflowEndsTheSubscription(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, err := new(Interest).subscribe(ctx, 1) // the kernel makes it the least that it allows
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	for i := 0; !closed; i++ {
		if ctx.Err() != nil {
			t.Fatal("the subscription goes on")
		}
		for range 100 { // each change of the MTU is an event
			if err := netlink.LinkSetMTU(lo, 1500+i%2); err != nil {
				t.Fatal(err)
			}
			i++
		}
		select {
		case _, open := <-events:
			closed = !open
		default:
		}
	}
	again, err := new(Interest).Subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(lo, 2000); err != nil {
		t.Fatal(err)
	}
	if _, open := <-again; !open {
		t.Error("the next subscription has ended, too")
	}
}
