package onenode

import (
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// held is a node in mode pcidp: three resources, of which pods p1 and p2 have the first two.
func held(t *testing.T) (s *stage, holders map[string]string) {
	t.Helper()
	s = newStage(t, 3)
	s.unlabel()
	s.startDevicePlugin()
	for _, e := range s.enis {
		s.must(s.declare(e))
	}
	for _, e := range s.enis {
		cluster.Eventually(t, e.resource()+" allocatable", restart, s.counts(e, 1))
	}
	cluster.Eventually(t, "verified", restart, s.offering("pcidp", ""))
	s.run("p1", s.enis[0])
	s.run("p2", s.enis[1])
	return s, map[string]string{s.enis[0].PCI: "p1", s.enis[1].PCI: "p2"}
}

// stopGrace is the time for which the kubelet remembers a device plugin that has gone, and a bit more.
const stopGrace = 5*time.Minute + 15*time.Second

// TestOfferTakeover: the daemon takes devices over from the SR-IOV device plugin, and hands them back, under pods that
// have some of them.
func TestOfferTakeover(t *testing.T) {
	s, holders := held(t)
	defer s.watchHolders(holders)()
	plugins, from := s.devicePlugins(), s.kubeletNow()
	s.wish("deviceplugin")
	took := cluster.Eventually(t, "takeover", restart, s.offering("deviceplugin", "Offered"))
	taken := time.Now()
	t.Logf("label to Offered: %v", took.Round(time.Millisecond))
	s.must(s.offers()()) // only the placeholder
	s.must(s.kubeletLists(s.enis...)())
	if now := s.devicePlugins(); now == plugins || now == "" {
		t.Errorf("device plugin pods %q and then %q, want another one", plugins, now)
	}
	s.bounded("takeover", from, s.enis...)
	s.killContainer("p1")
	s.run("p3", s.enis[2])
	s.end("p3")

	if !testing.Short() {
		time.Sleep(time.Until(taken.Add(stopGrace)))
	}
	s.bounded("after the kubelet's grace period", from, s.enis...)
	s.killContainer("p2")
	s.run("p3", s.enis[2])
	s.end("p3")

	plugins, from = s.devicePlugins(), s.kubeletNow()
	s.wish("")
	took = cluster.Eventually(t, "rollback", restart, s.offering("pcidp", ""))
	t.Logf("label removed to pcidp: %v", took.Round(time.Millisecond))
	s.must(s.offers(s.enis...)())
	s.must(s.kubeletLists(s.enis...)())
	if now := s.devicePlugins(); now == plugins || now == "" {
		t.Errorf("device plugin pods %q and then %q, want another one", plugins, now)
	}
	s.bounded("rollback", from, s.enis...)
	s.killContainer("p1")
	s.run("p3", s.enis[2])
	s.end("p3")
}
