package onenode

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// freshDaemon kills the daemon and starts it again. The next one may restart the device plugin at once: that two restarts
// are apart in time is not what these tests show.
func (s *stage) freshDaemon() {
	s.Helper()
	s.daemon.Kill()
	path := nodestate.CheckpointPath(s.paths.state)
	b, err := os.ReadFile(path)
	s.must(err)
	var c map[string]any
	s.must(json.Unmarshal(b, &c))
	if m, ok := c["devicePlugin"].(map[string]any); ok {
		delete(m, "tried")
		delete(m, "failures")
	}
	b, err = json.Marshal(c)
	s.must(err)
	s.must(os.WriteFile(path, b, 0o600))
	s.runDaemon()
}

// step is a point at which the daemon is killed.
type step struct {
	name    string
	reached func() bool
}

// TestOfferKilled kills the daemon at each step of a takeover, and of the way back. The next daemon brings it to an end,
// and pods keep their devices.
func TestOfferKilled(t *testing.T) {
	s, holders := held(t)
	defer s.watchHolders(holders)()
	var plugins string
	var from int64
	memory := func(is func(nodestate.OfferMemory) bool) func() bool {
		return func() bool {
			m, err := s.memory()
			return err == nil && is(m)
		}
	}
	listed := func(want bool) func() bool {
		return func() bool {
			b, err := os.ReadFile(s.config())
			return err == nil && strings.Contains(string(b), s.enis[0].PCI) == want
		}
	}
	restarted := func() bool { return s.devicePlugins() != plugins }
	takeover := []step{
		{"intent", memory(func(m nodestate.OfferMemory) bool { return m.Mode == nodestate.OfferDevicePlugin })},
		{"registration", func() bool { _, err := s.registeredBy(from, s.enis...); return err == nil }},
		{"config", listed(false)},
		{"restart", restarted},
		// The kubelet does not notice the end of a daemon that has not registered its resources once more by then.
		{"end", memory(func(m nodestate.OfferMemory) bool { return m.Mode == nodestate.OfferDevicePlugin && !m.Changing })},
	}
	rollback := []step{
		{"intent", memory(func(m nodestate.OfferMemory) bool { return m.Mode == nodestate.OfferPCIDP })},
		{"config", listed(true)},
		{"restart", restarted},
		{"lingering", memory(func(m nodestate.OfferMemory) bool { return m.Lingering != "" })},
	}
	for i := range takeover {
		for _, way := range []struct {
			step               step
			label, mode, state string
		}{{takeover[i], "deviceplugin", "deviceplugin", "Offered"}, {rollback[i%len(rollback)], "", "pcidp", ""}} {
			s.freshDaemon()
			plugins, from = s.devicePlugins(), s.kubeletNow()
			s.wish(way.label)
			s.await(way.step)
			s.freshDaemon()
			took := cluster.Eventually(t, "mode "+way.mode+" after a kill at "+way.step.name, restart, func() error {
				return errors.Join(s.offering(way.mode, way.state)(), s.kubeletLists(s.enis...)())
			})
			t.Logf("killed at %s: mode %s after %v", way.step.name, way.mode, took.Round(time.Millisecond))
			if listed(way.mode == "deviceplugin")() {
				t.Errorf("killed at %s: config of another mode than %s", way.step.name, way.mode)
			}
		}
	}
	s.killContainer("p1")
	s.run("p3", s.enis[2])
}

func (s *stage) await(p step) {
	s.Helper()
	for deadline := time.Now().Add(restart); !p.reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("step %s: not reached", p.name)
		}
	}
}
