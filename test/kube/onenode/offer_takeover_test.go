package onenode

import (
	"errors"
	"fmt"
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
	s.served("") // no restart is due
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
	stop := s.watchHolders(holders)
	s.changeHands("deviceplugin", "deviceplugin", "Offered")
	taken := time.Now()
	s.must(s.offers()()) // only the placeholder
	s.killContainer("p1")
	s.run("p3", s.enis[2])
	s.end("p3")

	from := s.kubeletNow()
	if !testing.Short() {
		time.Sleep(time.Until(taken.Add(stopGrace)))
	}
	s.must(s.kubeletLists(s.enis...)())
	if gaps := s.gaps(from, s.enis...); gaps[s.enis[1].resource()] > 0 {
		t.Errorf("times without an allocatable device after the takeover: %v", gaps)
	}
	s.killContainer("p2")
	s.run("p3", s.enis[2])
	s.end("p3")

	s.changeHands("", "pcidp", "")
	s.must(s.offers(s.enis...)())
	s.killContainer("p1")
	s.run("p3", s.enis[2])
	s.end("p3")

	stop() // the next kubelet lists no pod at first

	// The connections that the daemon has kept end with the kubelet. Then the daemon's end concerns nobody.
	s.KillKubelet()
	s.RunKubelet(t)
	cluster.Eventually(t, "all offered to the next kubelet", settle, func() error {
		m, err := s.memory()
		now, askErr := s.allocations()
		return errors.Join(err, askErr, want(m.Lingering, ""), s.kubeletLists(s.enis...)(), want(fmt.Sprint(now), fmt.Sprint(holders)))
	})
	s.AwaitReady(t)
	plugins := s.devicePlugins()
	from = s.kubeletNow()
	s.restartDaemon()
	cluster.Holds(t, "offered without the daemon", 3*time.Second, s.kubeletLists(s.enis...))
	if now, gaps := s.devicePlugins(), s.gaps(from, s.enis...); now != plugins || gaps[s.enis[0].resource()] > 0 {
		t.Errorf("device plugin pods %q and then %q, times without a device %v", plugins, now, gaps)
	}
}

// changeHands labels the Node, and waits until the devices have changed hands. No device is away for long meanwhile.
func (s *stage) changeHands(label, mode, state string) {
	s.Helper()
	plugins, from, stop := s.devicePlugins(), s.kubeletNow(), stalls()
	s.wish(label)
	took := cluster.Eventually(s.T, "devices in other hands", restart, s.offering(mode, state))
	s.Logf("label %q: mode %s after %v", label, mode, took.Round(time.Millisecond))
	s.bounded("mode "+mode, from, stop(), s.enis...)
	s.must(s.kubeletLists(s.enis...)())
	if now := s.devicePlugins(); now == plugins || now == "" {
		s.Errorf("device plugin pods %q and then %q, want another one", plugins, now)
	}
}
