package onenode

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

const (
	// mostStart bounds the time from the daemon's start, and mostKubeletStart that from the kubelet's socket, to the
	// registration of all resources, each on a machine that has processors to spare.
	mostStart        = 300 * time.Millisecond
	mostKubeletStart = 100 * time.Millisecond
	// mostRepair bounds the time after the start of kubelet and daemon until everything is right.
	mostRepair = 2 * time.Second
	killRounds = 50
)

// own is a node whose devices the daemon offers, from its start. It waits for the end of the change too: a daemon that is
// killed before leaves the kubelet with devices that nobody serves until the next one starts (ADR 0042), and the test
// before may have done so.
func own(t *testing.T, enis int) *stage {
	t.Helper()
	s := newStage(t, enis)
	s.useOffer()
	for _, e := range s.enis {
		s.must(s.declare(e))
	}
	cluster.Eventually(t, "the devices have changed hands", settle, func() error {
		m, err := s.memory()
		if err == nil && (m.Mode != nodestate.OfferDevicePlugin || m.Changing || len(m.Names) != enis) {
			err = fmt.Errorf("the checkpoint has %+v", m)
		}
		return err
	})
	cluster.Eventually(t, "all offered", settle, s.kubeletLists(s.enis...))
	return s
}

// registersWithin starts a program, and checks when the kubelet got the registration of each ENI's resource. start
// returns the time from which on that counts.
func (s *stage) registersWithin(what string, bound time.Duration, start func() time.Time) {
	s.Helper()
	from, stop := s.kubeletNow(), stalls()
	began := start()
	var last time.Time
	cluster.Eventually(s.T, what+": registered", settle, func() (err error) {
		last, err = s.registeredBy(from, s.enis...)
		return err
	})
	took, stall := last.Sub(began), stop()
	s.Logf("%s: registered after %v; the machine stalled for %v at most", what, took.Round(time.Microsecond), stall)
	if took > bound+handoffs*stall {
		s.Errorf("%s: registered after %v, want %v at most, and %d stalls", what, took, bound, handoffs)
	}
}

func (s *stage) restartDaemon() time.Time {
	s.daemon.Kill()
	began := time.Now()
	s.runDaemon()
	return began
}

// TestOfferStart: a daemon that starts offers at once, without an API server too, and nothing that sysfs denies. A
// kubelet that starts is offered the devices at once.
func TestOfferStart(t *testing.T) {
	s := own(t, 3)
	s.run("p1", s.enis[0])
	for range 3 {
		s.registersWithin("start of the daemon", mostStart, s.restartDaemon)
		cluster.Eventually(t, "all offered", settle, s.kubeletLists(s.enis...))
	}
	for range 3 {
		s.registersWithin("start of the kubelet", mostKubeletStart, func() time.Time {
			old := bornAt(filepath.Join(node.DevicePluginsDir, "kubelet.sock"))
			s.KillKubelet()
			s.RunKubelet(t)
			var born time.Time
			cluster.Eventually(t, "the kubelet's socket", settle, func() error {
				if born = bornAt(filepath.Join(node.DevicePluginsDir, "kubelet.sock")); !born.After(old) {
					return fmt.Errorf("socket of %v", born)
				}
				return nil
			})
			return born
		})
		cluster.Eventually(t, "all offered", settle, s.kubeletLists(s.enis...))
	}
	s.AwaitReady(t)

	s.StopAPIServer(t)
	s.registersWithin("start of the daemon without an API server", mostStart, s.restartDaemon)
	cluster.Eventually(t, "all offered", settle, s.kubeletLists(s.enis...))
	s.daemon.Kill()
	gone := s.enis[2]
	s.must(s.host.Detach(gone.ENI))
	from := s.kubeletNow()
	s.runDaemon()
	cluster.Eventually(t, "the others offered", settle, s.kubeletLists(s.enis[:2]...))
	for _, e := range s.kubeletEvents(from) {
		if e.kind == updated && e.resource == gone.resource() && e.healthy > 0 {
			t.Errorf("a device that is gone was offered at %v", e.at)
		}
	}
	s.StartAPIServer(t)
	s.must(s.host.Attach(gone.ENI))
	cluster.Eventually(t, "all offered", settle, s.kubeletLists(s.enis...))
	s.must(s.hasDevice("p1", s.enis[0]))
}

// bornAt returns the birth of a file, the zero time if there is none.
func bornAt(path string) time.Time {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME|unix.STATX_CTIME, &st) != nil {
		return time.Time{}
	}
	at := st.Btime
	if st.Mask&unix.STATX_BTIME == 0 {
		at = st.Ctime
	}
	return time.Unix(at.Sec, int64(at.Nsec))
}

// TestOfferKills kills kubelet and daemon in any order. Soon after both run again the kubelet lists the right devices,
// and pods have theirs.
func TestOfferKills(t *testing.T) {
	from := seed(t)
	s := own(t, 3)
	s.run("p1", s.enis[0])
	s.run("p2", s.enis[1])
	holders := map[string]string{s.enis[0].PCI: "p1", s.enis[1].PCI: "p2"}
	r := rand.New(rand.NewPCG(from, 1))
	pause := func() { time.Sleep(time.Duration(r.Int64N(int64(300 * time.Millisecond)))) }
	var took []time.Duration
	stop := stalls()
	for round := range killRounds {
		which := r.IntN(4)
		kill := []func(){s.KillKubelet, s.daemon.Kill}
		start := []func(){func() { s.RunKubelet(t) }, s.runDaemon}
		if which >= 2 { // both, in any order
			if r.IntN(2) == 0 {
				slices.Reverse(kill)
			}
			if r.IntN(2) == 0 {
				slices.Reverse(start)
			}
		} else {
			kill, start = kill[which:which+1], start[which:which+1]
		}
		for _, do := range slices.Concat(kill, start) {
			do()
			pause()
		}
		cluster.Eventually(t, "the kubelet answers", settle, func() error { _, err := kubeletAllocatable(s.Context()); return err })
		took = append(took, cluster.Eventually(t, fmt.Sprintf("right in round %d", round), settle, func() error {
			if err := s.kubeletLists(s.enis...)(); err != nil {
				return err
			}
			now, err := s.allocations()
			if err != nil {
				return err
			}
			return want(fmt.Sprint(now), fmt.Sprint(holders))
		}))
	}
	stall := stop()
	t.Logf("everything is right after the kubelet answers: %s; the machine stalled for %v at most", spread(took), stall)
	if most := slices.Max(took); most > mostRepair+handoffs*stall {
		t.Errorf("right only after %v, want %v at most, and %d stalls", most, mostRepair, handoffs)
	}
	s.AwaitReady(t)
	for pod, e := range map[string]eni{"p1": s.enis[0], "p2": s.enis[1]} {
		s.must(s.hasDevice(pod, e))
	}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(s.paths.state))
	s.must(err)
	s.must(want(len(c.Offer.Names), len(s.enis)))
}
