package main

import (
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestHoldersFollowTheRecords: the status has each pod as its record says now, from the
// node's first pod on.
func TestHoldersFollowTheRecords(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1, 2, 3)
	for n, name := range []string{"a", "b", "c"} {
		m.declare(name, n+1)
	}
	m.start()
	m.until("a ready", "b ready", "c ready")
	for n, name := range []string{"a", "b", "c"} {
		m.attach("pod-"+name, name)
		begin := time.Now()
		for {
			s, err := status.Ask(t.Context(), status.Socket(m.path("run/inventory.json")))
			must(m, err)
			complete := 0
			for _, h := range s.Holders {
				if h.State == nodestate.StateComplete {
					complete++
				}
			}
			if complete == n+1 {
				break
			}
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("20 s after pod-%s was attached: holders %+v\n%s", name, s.Holders, m.stderr.String())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	m.end()
}
