package onenode

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

const (
	churnTime = 60 * time.Second
	// At most so many exist at a time.
	churnENIs = 3
	churnPods = 4
	// staleBound is how long the config may list a device without NodeENI; the daemon may be dead for up to downTime of it.
	staleBound = 5 * time.Second
	downTime   = time.Second
)

type churn struct {
	*stage
	until time.Time

	mu      sync.Mutex
	removed map[string]time.Time // ENI's PCI address -> since when no NodeENI declares it
	done    map[string]int       // events by name
}

func (c *churn) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done[what]++
}

func (c *churn) loop(r *rand.Rand, least, most time.Duration, act func()) {
	for {
		wait := least + time.Duration(r.Int64N(int64(most-least)))
		if time.Now().Add(wait).After(c.until) {
			return
		}
		time.Sleep(wait)
		act()
	}
}

func (c *churn) declarations(r *rand.Rand) {
	declared := map[string]bool{}
	c.loop(r, 500*time.Millisecond, 3*time.Second, func() {
		e := c.enis[r.IntN(len(c.enis))]
		var err error
		if declared[e.letter] {
			err = c.withdraw(e)
			c.mu.Lock()
			c.removed[e.PCI] = time.Now()
			c.mu.Unlock()
			c.count("NodeENI deleted")
		} else {
			c.mu.Lock()
			delete(c.removed, e.PCI)
			c.mu.Unlock()
			err = c.declare(e)
			c.count("NodeENI created")
		}
		if err != nil {
			c.Errorf("change NodeENI %s: %v", e.letter, err)
			return
		}
		declared[e.letter] = !declared[e.letter]
	})
	for _, e := range c.enis {
		if declared[e.letter] {
			if err := c.withdraw(e); err != nil {
				c.Errorf("delete NodeENI %s: %v", e.letter, err)
			}
		}
	}
}

func (c *churn) pods(r *rand.Rand) {
	live := map[string]bool{}
	n := 0
	c.loop(r, 200*time.Millisecond, 2*time.Second, func() {
		if len(live) == churnPods || len(live) > 0 && r.IntN(3) == 0 {
			names := slices.Sorted(maps.Keys(live))
			name := names[r.IntN(len(names))]
			if err := c.delete(name); err != nil {
				c.Errorf("delete pod: %v", err)
			}
			delete(live, name)
			c.count("pod deleted")
			return
		}
		n++
		name := "p" + strconv.Itoa(n)
		if err := c.create(name, c.enis[r.IntN(len(c.enis))].resource()); err != nil {
			c.Errorf("create pod: %v", err)
			return
		}
		live[name] = true
		c.count("pod created")
	})
	for name := range live {
		if err := c.delete(name); err != nil {
			c.Errorf("delete pod: %v", err)
		}
	}
}

func (c *churn) kills(r *rand.Rand) {
	down := func() { time.Sleep(time.Duration(r.Int64N(int64(downTime)))) }
	victims := map[string]func(){
		"multi-enid": func() { c.daemon.Kill(); down(); c.runDaemon() },
		"containerd": func() { c.KillContainerd(); down(); c.StartContainerd(c.T) },
		"kubelet":    func() { c.KillKubelet(); down(); c.StartKubelet(c.T) },
		"device plugin": func() {
			for _, pid := range processes(isDevicePlugin) {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
			}
		},
	}
	names := slices.Sorted(maps.Keys(victims))
	c.loop(r, time.Second, 5*time.Second, func() {
		name := names[r.IntN(len(names))]
		c.Logf("kill -9 %s", name)
		victims[name]()
		c.count("killed " + name)
	})
}

func (c *churn) watch(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			c.Logf("looked %d times", n)
			return
		case <-time.After(10 * time.Millisecond):
		}
		if err := c.look(); err != nil {
			c.Errorf("invariant: %v", err)
			return
		}
	}
}

func (c *churn) look() error {
	if _, err := c.inventory(); err != nil {
		return err
	}
	if _, err := c.records(); err != nil {
		return err
	}
	c.mu.Lock()
	removed := maps.Clone(c.removed)
	c.mu.Unlock()
	v, err := c.offered()
	if err != nil {
		return err
	}
	for _, devices := range v.Resources {
		for _, d := range devices {
			if since, ok := removed[d.String()]; ok && time.Since(since) > staleBound {
				return fmt.Errorf("the config lists %s %v after its NodeENI was deleted", d, time.Since(since))
			}
		}
	}
	return nil
}

func (c *churn) settled() error {
	inv, err := c.inventory()
	if err != nil {
		return err
	}
	allocated, err := c.allocations()
	if err != nil {
		return err
	}
	kept, err := filepath.Glob(c.path("metacni/*.json"))
	if err != nil {
		return err
	}
	spaces, err := filepath.Glob("/run/netns/cni-*")
	if err != nil {
		return err
	}
	errs := []error{
		c.unheld(), c.offers()(), none("devices in the inventory", inv.Devices), none("problems", inv.Problems),
		none("allocations", slices.Collect(maps.Keys(allocated))), none("attachments of metacni", kept), none("network namespaces", spaces),
	}
	for _, e := range c.enis {
		errs = append(errs, c.counts(e, 0)())
	}
	return errors.Join(errs...)
}

func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("CHURN_SEED"); v != "" {
		var err error
		if s, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CHURN_SEED=%d", s)
	return s
}

// TestChurn kills every program of a node at random while NodeENIs and pods come and go. Nothing is wrong or left.
func TestChurn(t *testing.T) {
	from := seed(t)
	s := newStage(t, churnENIs)
	s.startDevicePlugin()
	c := &churn{stage: s, until: time.Now().Add(churnTime), removed: map[string]time.Time{}, done: map[string]int{}}
	for _, e := range s.enis {
		c.removed[e.PCI] = time.Time{}
	}
	stop := make(chan struct{})
	var watcher, actors sync.WaitGroup
	watcher.Go(func() { c.watch(stop) })
	source := func(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(from, actor)) }
	actors.Go(func() { c.declarations(source(1)) })
	actors.Go(func() { c.pods(source(2)) })
	c.kills(source(3)) // it may end the test, which only its own goroutine can
	actors.Wait()
	t.Logf("done: %v", c.done)
	t.Logf("settled after %v", cluster.Eventually(s.T, "nothing left", 3*time.Minute, c.settled))
	close(stop)
	watcher.Wait()
}
