package onenode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	// upgradeFor is the least time of version changes; 2 pods and 10 pairs per second of it must have come and gone.
	upgradeFor = time.Minute
	wantPods   = 120
	wantPairs  = 600
	// Each version sees this many pods before the next one comes.
	eachPods = 15
)

type traffic struct {
	*stage
	during context.Context

	mu          sync.Mutex
	pods, pairs int
	faults      []error
}

func (c *traffic) count(n *int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.faults = append(c.faults, err)
		return
	}
	*n++
}

func (c *traffic) enough() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods >= wantPods && c.pairs >= wantPairs || len(c.faults) > 0
}

// more is a check: this many more pods than at the call have come and gone, or something has failed.
func (c *traffic) more(pods int) func() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	goal := c.pods + pods
	return func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pods < goal && len(c.faults) == 0 {
			return fmt.Errorf("%d pods, want %d", c.pods, goal)
		}
		return nil
	}
}

func (c *traffic) onePod(e eni, name string) error {
	if err := c.create(name, e.resource()); err != nil {
		return err
	}
	if err := c.until(c.inPhase(name, corev1.PodRunning)); err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	err := c.hasDevice(name, e)
	err = errors.Join(err, c.delete(name), c.until(c.inPhase(name, "")))
	return errors.Join(err, c.until(func() error { return c.home(e) }))
}

func (c *traffic) until(check func() error) error {
	for deadline := time.Now().Add(settle); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *traffic) runPairs(e eni, netns string) {
	network := "pairs-" + e.letter
	list, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": network, "plugins": []any{
		map[string]any{"type": "multi-eni", "deviceID": e.PCI, "select": map[string]any{"nodeENI": e.letter}, "ipam": map[string]any{"type": "eni-ipam"}},
	}})
	folder := c.path(network)
	err = errors.Join(err, os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, "pairs.conflist"), list, 0o600))
	cnitool, missing := nstest.Binary("tools/cnitool")
	if err = errors.Join(err, missing); err != nil {
		c.count(nil, err)
		return
	}
	ctx := context.WithoutCancel(c.during) // a pair that has begun is carried out
	call := func(verb string) error {
		cmd := exec.CommandContext(ctx, cnitool, verb, network, netns)
		cmd.Env = []string{"CNI_PATH=" + node.CNIBinDir, "NETCONFPATH=" + folder, "CNI_IFNAME=net-" + e.letter}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cnitool %s: %w: %s", verb, err, out)
		}
		return nil
	}
	for c.during.Err() == nil {
		c.count(&c.pairs, errors.Join(call("add"), call("del"), c.home(e)))
	}
}

func (s *stage) runs(version string) func() error {
	return func() error {
		var said bytes.Buffer
		cmd := exec.CommandContext(s.Context(), pluginPath)
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil {
			return err
		}
		if !strings.HasSuffix(strings.SplitN(said.String(), "\n", 2)[0], version) {
			return fmt.Errorf("plugin says %q, want version %s", said.String(), version)
		}
		return nil
	}
}

// TestUpgrade changes the version while pods come and go. No call fails, and the device plugin is not restarted.
func TestUpgrade(t *testing.T) {
	s := bareNode(t, 9)
	var programs []string
	for _, name := range []string{"multi-enid", "multi-eni"} {
		path, err := nstest.Binary("kube/next/" + name)
		s.must(err)
		programs = append(programs, path)
	}
	s.ImportImage(t, imageName+":"+next, programs...)
	versions := map[string]string{shipped: s.render("", shipped), next: s.render("", next)}
	s.install(versions[shipped])
	for _, e := range s.enis {
		s.must(s.declare(e))
	}
	cluster.Eventually(t, "config", settle, s.offers(s.enis...))
	s.startDevicePlugin() // which has its config: there is no reason for a restart
	for _, e := range s.enis {
		cluster.Eventually(t, e.resource()+" allocatable", restart, s.counts(e, 1))
	}
	s.served("")
	devicePlugins := s.devicePlugins()
	const netns = "/run/netns/pairs"
	s.must(nstest.NewNetns(netns))
	s.Cleanup(func() { s.must(nstest.DeleteNetns(netns)) })

	ctx, end := context.WithCancel(t.Context())
	c := &traffic{stage: s, during: ctx}
	var wg sync.WaitGroup
	began := time.Now()
	pairs := s.enis[:2]
	for _, e := range s.enis[2:] {
		wg.Go(func() {
			for i := 0; c.during.Err() == nil; i++ {
				c.count(&c.pods, c.onePod(e, fmt.Sprintf("up-%s-%d", e.letter, i)))
			}
		})
	}
	for _, e := range pairs {
		wg.Go(func() { c.runPairs(e, netns) })
	}
	upgrades := 0
	for ; (time.Since(began) < upgradeFor || !c.enough()) || upgrades%2 == 1; upgrades++ { // it ends as it began
		tag := []string{next, shipped}[upgrades%2]
		s.applyAll(versions[tag])
		s.awaitReady()
		if tag == next {
			cluster.Eventually(t, "the next plugin", settle, s.runs(next))
		}
		cluster.Eventually(t, "pods under version "+tag, settle, c.more(eachPods))
	}
	end()
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d upgrades in %v, with %d pods (%.1f/s) and %d pairs of ADD and DEL (%.1f/s)", upgrades, took.Round(time.Second),
		c.pods, float64(c.pods)/took.Seconds(), c.pairs, float64(c.pairs)/took.Seconds())
	for _, err := range c.faults {
		t.Error(err)
	}
	cluster.Eventually(t, "no record, no allocation", settle, s.ended)
	for _, e := range s.enis {
		s.must(s.home(e))
	}
	if now := s.devicePlugins(); now != devicePlugins {
		t.Errorf("device plugin pods %s and then %s; want no restart", devicePlugins, now)
	}
}
