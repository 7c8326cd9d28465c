package hotplug

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// testReplaced: another ENI takes the slot of one that pods have. It is a new device, whether the daemon watched or not.
func (s *stage) testReplaced(t *testing.T, watching bool) {
	cases := []reuse{
		{"no pod", exclusive, 0, advertised},
		{"exclusive", exclusive, 1, advertised},
		{"ipvlan", ipvlan, 2, kernel},
		{"DPDK, no pod", exclusive, 0, dpdk},
		{"DPDK", exclusive, 1, dpdk},
	}
	gate := newGate(len(cases), s, watching)
	for i, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run(t, s, machineSlots-1-i, gate)
		})
	}
}

type reuse struct {
	name     string
	delegate string
	pods     int
	kind     kind
}

func (tt reuse) run(t *testing.T, s *stage, i int, g *gate) {
	ready, swapped := sync.OnceFunc(g.ready.Done), sync.OnceFunc(g.swapped.Done)
	defer swapped()
	defer ready()
	old, next := s.cloud.NewENI(i+1, guest.Lag{Stale: 3 * time.Second}), s.cloud.NewENI(i+1, guest.Lag{Listed: time.Second})
	slot, name := fmt.Sprintf("slot%d", i), fmt.Sprintf("%s-%d", map[bool]string{true: "seen", false: "unseen"}[g.watching], i)
	declare(t, name+"-old", old, tt.kind, true)
	declare(t, name+"-next", next, advertised, true)
	defer guest.RemoveNodeENI(t, name+"-old")
	defer guest.RemoveNodeENI(t, name+"-next")
	s.cloud.AttachENI(t, old, slot)
	row, _ := s.awaitReady(t, old.ID, soon)
	var pods []pod
	for n := range tt.pods {
		p := newPod(t, fmt.Sprintf("%s-%d", name, n), old, tt.delegate)
		p.add(t)
		pods = append(pods, p)
	}
	ready()
	<-g.paused
	s.cloud.ReplaceENI(t, old, next)
	defer s.cloud.DetachENI(t, next)
	s.arrivals.of(t, next.MAC)
	swapped()

	is, _ := s.awaitReady(t, next.ID, soon)
	if is.PCIAddress != row.PCIAddress || is.MAC != next.MAC {
		t.Errorf("row of the next device %+v, want it at %s", is, row.PCIAddress)
	}
	s.await(t, "the old one is nowhere", soon, func(inv nodestate.Inventory, _ string) bool {
		r := find(inv, old.ID)
		return r.Phase != nodestate.PhaseReady && r.PCIAddress == ""
	})
	p := newPod(t, name+"-next", next, exclusive)
	p.add(t)
	for _, o := range pods {
		o.end(t)
	}
	if kept, err := nodestate.AttachmentDir(nodestate.DefaultAttachmentsDir).Restores(); err != nil || slices.Contains(kept, is.PCIAddress) {
		t.Errorf("restore records %v, %v after DEL of the old device's pod; there is nothing to restore", kept, err)
	}
	if got := p.mac(t); got != next.MAC {
		t.Errorf("after DEL of the old device's pod the new one's has MAC %q, want %s", got, next.MAC)
	}
	p.end(t)
	// A device that was plugged in meanwhile may have taken the name.
	l, ok := guest.ByMAC(next.MAC.String())
	if other, taken := guest.ByName(is.InterfaceName); !ok || (!taken && l.Attrs().Name != is.InterfaceName) {
		t.Errorf("link of %s after its pod: %v, want %s, or that name with another: %v", next.MAC, l, is.InterfaceName, other)
	}
	guest.Eventually(t, "no record and no lease", soon, func() bool {
		return len(records(t, old))+len(records(t, next)) == 0 && len(leases(t, append(pods, p)...)) == 0
	})
}

// gate stops the daemon, unless it is to watch, from when all cases are ready until each slot has another device.
type gate struct {
	ready, swapped sync.WaitGroup
	paused         chan struct{}
	watching       bool
}

func newGate(cases int, s *stage, watching bool) *gate {
	g := &gate{paused: make(chan struct{}), watching: watching}
	g.ready.Add(cases)
	g.swapped.Add(cases)
	go func() {
		g.ready.Wait()
		if !watching {
			unix.Kill(s.daemon.PID(), unix.SIGSTOP)       //nolint:errcheck // a daemon that has ended fails the cases
			defer unix.Kill(s.daemon.PID(), unix.SIGCONT) //nolint:errcheck // likewise
		}
		close(g.paused)
		g.swapped.Wait()
	}()
	return g
}
