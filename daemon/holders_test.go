package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestHoldersFollowTheRecords: what the daemon tells of a pod is what its record
// says now, from the first pod of the node on.
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
			s, err := server.Ask(t.Context(), filepath.Join(m.path("run"), server.SocketName))
			m.must(err)
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
