package hotplug

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

var seedFlag = flag.Uint64("seed", 0, "the `number` that a storm's decisions follow from; 0 takes the time")

const (
	stormSlots = 6
	// stormRounds is how often an ENI is attached and detached, over all slots.
	stormRounds = 200
	// longer is added to every third life of the daemon: while the config keeps changing, the restart of the device plugin, and with it
	// the release of a device, comes up to 10 s after a start.
	longer = 12 * time.Second
	// readySoon covers several lives.
	readySoon = 90 * time.Second
)

func (s *stage) testStorm(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat its decisions with -args -seed=%d", seed)
	st := &storm{stage: s, ended: make(chan struct{}), retries: map[string]int{}}
	st.working.Store(stormSlots)
	begun := time.Now()
	t.Run("under way", func(t *testing.T) {
		for n := range stormSlots {
			t.Run(fmt.Sprintf("slot%d", n), func(t *testing.T) {
				t.Parallel()
				defer st.leave()
				w := &slotWorker{storm: st, slot: n, rng: rand.New(rand.NewPCG(seed, uint64(n)))}
				for st.rounds.Add(1) <= stormRounds {
					w.round(t)
				}
			})
		}
		t.Run("daemon", func(t *testing.T) {
			t.Parallel()
			st.killDaemon(t, rand.New(rand.NewPCG(seed, stormSlots)))
		})
	})
	t.Logf("%d rounds in %v: %d waited for ready, %v at most, %d pods, %d of their verbs killed, %d times the daemon; verbs tried again, by code: %v",
		min(st.rounds.Load(), stormRounds),
		time.Since(begun).Round(time.Second), st.waited.Load(), st.slowest.Round(time.Millisecond), st.pods.Load(), st.killed.Load(), st.deaths.Load(), st.retries)
}

type storm struct {
	*stage
	rounds, waited, pods, killed, deaths atomic.Int64
	// working counts the slots at work; ended is closed when none is.
	working atomic.Int64
	ended   chan struct{}

	mu sync.Mutex
	// slowest is the longest time until a device was ready.
	slowest  time.Duration
	detached []guest.ENI
	retries  map[string]int
}

func (st *storm) retry(verb string, code int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.retries[fmt.Sprint(verb, " ", code)]++
}

func (st *storm) slow(d time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.slowest = max(st.slowest, d)
}

func (st *storm) leave() {
	if st.working.Add(-1) == 0 {
		close(st.ended)
	}
}

func (st *storm) killDaemon(t *testing.T, rng *rand.Rand) {
	for {
		life := 4*time.Second + time.Duration(rng.Int64N(int64(8*time.Second)))
		if st.deaths.Load()%3 == 2 {
			life += longer
		}
		select {
		case <-st.ended:
			return
		case <-t.Context().Done():
			return
		case <-time.After(life):
		}
		st.deaths.Add(1)
		st.daemon.Kill()
		st.daemon.Restart()
		st.restarted()
	}
}

type slotWorker struct {
	*storm
	slot, gen int
	rng       *rand.Rand
	trail     []string
}

func (w *slotWorker) did(format string, args ...any) {
	w.trail = append(w.trail, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (w *slotWorker) fatal(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Fatalf("%s; in this round:\n%s\nrecords and leases: %q", fmt.Sprintf(format, args...), strings.Join(w.trail, "\n"), leftovers(t))
}

func (w *slotWorker) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *slotWorker) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(d)))
}

func (w *slotWorker) round(t *testing.T) {
	w.gen++
	w.trail = nil
	e := w.eni()
	name := fmt.Sprintf("storm-%d", w.slot)
	if w.chance(50) {
		name = fmt.Sprintf("storm-%d-%d", w.slot, w.gen)
	}
	k, byStatus, early := w.kind(), w.chance(50), w.chance(50)
	if early {
		declare(t, name, e, k, byStatus)
	}
	w.did("attach %+v, kind %d, declared by status %v, declared before %v", e, k, byStatus, early)
	w.cloud.AttachENI(t, e, fmt.Sprintf("slot%d", w.slot))
	if !early {
		declare(t, name, e, k, byStatus)
	}
	var pods []pod
	if w.chance(33) {
		w.waited.Add(1)
		plugged := time.Now()
		w.awaitDeclared(t, name, e, k)
		w.did("ready")
		w.slow(time.Since(plugged))
		pods = w.startPods(t, e, k)
	} else {
		w.pause(t, 500*time.Millisecond)
	}
	first := w.chance(50)
	if first {
		w.endPods(t, pods)
	}
	if early = w.chance(30); early {
		guest.RemoveNodeENI(t, name)
	}
	w.did("detach")
	w.cloud.DetachENI(t, e)
	if !first {
		w.endPods(t, pods)
	}
	if !early {
		guest.RemoveNodeENI(t, name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detached = append(w.detached, e)
}

// awaitDeclared waits until this round's NodeENI has its ENI, bound as declared. While the metadata tell the index of the ENI's last
// attachment, the daemon may bind it as the NodeENI of another slot wants.
func (w *slotWorker) awaitDeclared(t *testing.T, name string, e guest.ENI, k kind) {
	w.await(t, fmt.Sprintf("%s has %s, ready as kind %d", name, e.ID, k), readySoon, func(inv nodestate.Inventory, _ string) bool {
		row := find(inv, e.ID)
		return row.Phase == nodestate.PhaseReady && row.NodeENI == name && row.ResourceName == k.resource(e.Index) && (row.Driver == vfio) == (k == dpdk)
	})
}

func (w *slotWorker) eni() guest.ENI {
	lag := guest.Lag{
		Listed:  []time.Duration{0, 0, 0, -w.upTo(300 * time.Millisecond), w.upTo(time.Second)}[w.rng.IntN(5)],
		Indexed: []time.Duration{0, w.upTo(time.Second)}[w.rng.IntN(2)],
		Stale:   []time.Duration{0, -w.upTo(300 * time.Millisecond), w.upTo(6 * time.Second)}[w.rng.IntN(3)],
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.detached) == 0 || w.chance(70) {
		return w.cloud.NewENI(w.slot+1, lag)
	}
	i := w.rng.IntN(len(w.detached))
	e := w.detached[i]
	w.detached = append(w.detached[:i], w.detached[i+1:]...)
	e.Index, e.Lag = w.slot+1, lag
	return e
}

func (w *slotWorker) kind() kind {
	return []kind{kernel, kernel, kernel, advertised, advertised, advertised, advertised, advertised, advertised, dpdk}[w.rng.IntN(10)]
}

func (w *slotWorker) pause(t *testing.T, d time.Duration) {
	select {
	case <-time.After(w.upTo(d)):
	case <-t.Context().Done():
	}
}

func (w *slotWorker) startPods(t *testing.T, e guest.ENI, k kind) (pods []pod) {
	delegate, n := exclusive, 1
	if k != dpdk && w.chance(30) {
		delegate, n = ipvlan, 1+w.rng.IntN(2)
	}
	for i := range n {
		w.pods.Add(1)
		p := newPod(t, fmt.Sprintf("s%d-%d-%d", w.slot, w.gen, i), e, delegate)
		pods = append(pods, p)
		w.add(t, p)
	}
	return pods
}

// add acts as a kubelet would: an ADD that fails or dies is followed by DEL, and tried again.
func (w *slotWorker) add(t *testing.T, p pod) {
	for deadline := time.Now().Add(readySoon); ; {
		if w.chance(15) {
			w.kill(t, p.call("ADD"), 500*time.Millisecond)
			w.del(t, p)
		}
		r := guest.CNI(t, p.call("ADD"))
		w.did("ADD of %s took %v: code %d %s", p.id, r.Took, r.Code, r.Msg)
		if r.Code == 0 {
			return
		}
		// All but 11 and 101: the row may still be from an earlier round of the same ENI, or become another slot's once more.
		if passing := slices.Contains([]int{11, 100, 101, 102, 103, 104}, r.Code); !passing || time.Now().After(deadline) {
			w.fatal(t, "ADD of %s: code %d: %s", p.id, r.Code, r.Msg)
		}
		w.retry("ADD", r.Code)
		w.del(t, p)
	}
}

// endPods ends pods as runtimes do, and some of them without DEL.
func (w *slotWorker) endPods(t *testing.T, pods []pod) {
	for _, p := range pods {
		if !w.chance(20) {
			w.del(t, p)
			if w.chance(20) {
				w.del(t, p)
			}
		}
		guest.DeleteNetns(t, p.netns)
	}
}

func (w *slotWorker) del(t *testing.T, p pod) {
	if w.chance(15) {
		w.kill(t, p.call("DEL"), 300*time.Millisecond)
	}
	for deadline := time.Now().Add(readySoon); ; {
		r := guest.CNI(t, p.call("DEL"))
		w.did("DEL of %s took %v: code %d %s", p.id, r.Took, r.Code, r.Msg)
		if r.Code == 0 {
			return
		}
		if r.Code != 11 || time.Now().After(deadline) {
			w.fatal(t, "DEL of %s: code %d: %s", p.id, r.Code, r.Msg)
		}
		w.retry("DEL", r.Code)
	}
}

func (w *slotWorker) kill(t *testing.T, c guest.CNICall, within time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), w.upTo(within))
	defer cancel()
	err := guest.Command(ctx, c).Run()
	w.did("%s of %s to be killed: %v", c.Verb, c.ContainerID, err)
	if err != nil && ctx.Err() != nil {
		w.killed.Add(1)
	}
}
