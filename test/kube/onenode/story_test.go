package onenode

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	settle = time.Minute
	// restart also covers a restart of the device plugin, at most one in 30 s.
	restart = 2 * time.Minute
	// lookAgain bounds the search for a device plugin that came late and registered nothing, every five minutes.
	lookAgain = 6 * time.Minute
)

func (s *stage) hasDevice(pod string, e eni) error {
	all, err := s.records()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Pod != "default/"+pod || r.State != nodestate.StateComplete {
			continue
		}
		return nstest.In(r.Netns.Path, func() error {
			l, err := net.InterfaceByName("net1")
			if err != nil {
				return err
			}
			if err := want(l.HardwareAddr.String(), e.MAC); err != nil {
				return err
			}
			addrs, err := l.Addrs()
			if err == nil && len(addrs) == 0 {
				err = errors.New("net1 has no address")
			}
			return err
		})
	}
	return fmt.Errorf("no complete record of pod %s among %v", pod, all)
}

func (s *stage) offers(enis ...eni) func() error {
	return func() error {
		v, err := s.offered()
		if err != nil {
			return err
		}
		if err := want(len(v.Resources), len(enis)); err != nil {
			return fmt.Errorf("resources %v: %w", v.Resources, err)
		}
		for _, e := range enis {
			if err := want(join(v.Resources[e.resource()]), e.PCI); err != nil {
				return fmt.Errorf("%s: %w", e.resource(), err)
			}
		}
		return nil
	}
}

// counts is a check: this many of the ENI's resource are allocatable.
func (s *stage) counts(e eni, wanted int64) func() error {
	return func() error {
		got, err := s.allocatable(e.resource())
		if err != nil {
			return err
		}
		return want(got, wanted)
	}
}

// lists is a check: the inventory has the ENI in a phase; "" for absent.
func (s *stage) lists(e eni, phase nodestate.Phase) func() error {
	return func() error {
		inv, err := s.inventory()
		if err != nil {
			return err
		}
		var got nodestate.Phase
		for _, d := range inv.Devices {
			if d.PCIAddress == device.PCIAddress(e.PCI) {
				got = d.Phase
			}
		}
		return want(got, phase)
	}
}

// served waits until the device plugin serves another config than before, as verified, and returns its hash.
func (s *stage) served(before string) string {
	s.Helper()
	var now string
	cluster.Eventually(s.T, "the device plugin serves its config", lookAgain, func() error {
		c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(s.paths.state))
		if now = c.ConfirmedHash; err == nil && (now == "" || now == before) {
			err = fmt.Errorf("confirmed hash %q", now)
		}
		return err
	})
	return now
}

func (s *stage) restarts() int {
	s.Helper()
	log, err := os.ReadFile(s.path("multi-enid.log"))
	s.must(err)
	return strings.Count(string(log), `msg="restarting device plugin"`)
}

func (s *stage) ended() error {
	all, err := s.records()
	if err != nil {
		return err
	}
	allocated, err := s.allocations()
	if err != nil {
		return err
	}
	return errors.Join(none("records", all), want(len(allocated), 0))
}

// apart is the least time between two restarts of the device plugin.
const apart = 30 * time.Second

// warned says whether exactly one Event tells the pod that its NodeENI was removed.
func (s *stage) warned(pod string) error {
	p, err := s.Admin.CoreV1().Pods("default").Get(s.Context(), pod, metav1.GetOptions{})
	if err != nil {
		return err
	}
	list, err := s.Admin.CoreV1().Events("default").List(s.Context(), metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Pod,reason=DeviceRemoved,involvedObject.uid=" + string(p.UID),
	})
	if err != nil {
		return err
	}
	return want(len(list.Items), 1)
}

// releaseBound is the longest time from the end of a removed device's last pod to its release.
const releaseBound = 2 * time.Second

func TestStory(t *testing.T) {
	s := newStage(t, 1)
	a := s.enis[0]
	s.startDevicePlugin()
	s.must(s.offers()()) // a placeholder keeps it running
	placeholder := s.served("")

	before, pods := s.restarts(), s.devicePlugins()
	s.must(s.declare(a))
	took := cluster.Eventually(s.T, "allocatable 1", restart, s.counts(a, 1))
	s.must(s.offers(a)())
	s.served(placeholder)
	if n, now := s.restarts()-before, s.devicePlugins(); n != 1 || now == pods {
		t.Errorf("restarted %d times, pods %s and then %s; want one restart", n, pods, now)
	}
	t.Logf("declared to allocatable: %v", took)
	s.must(s.create("p1", a.resource()))
	cluster.Eventually(s.T, "pod p1", settle, s.inPhase("p1", corev1.PodRunning))
	s.must(s.hasDevice("p1", a))

	t.Run("removed under a pod", func(t *testing.T) {
		s := s.with(t)
		cluster.Holds(t, "offered while the next restart may not be due yet", apart, s.counts(a, 1))
		deleted := time.Now()
		s.must(s.withdraw(a))
		t.Logf("deleted to placeholder: %v", cluster.Eventually(t, "placeholder", settle, s.offers()))
		cluster.Eventually(t, "draining", settle, s.lists(a, nodestate.PhaseDraining))
		cluster.Eventually(t, "allocatable 0", restart, s.counts(a, 0))
		t.Logf("deleted to allocatable 0, with no restart in the %v before: %v", apart, time.Since(deleted))
		cluster.Eventually(t, "Event on the pod", settle, func() error { return s.warned("p1") })
		s.served("")
		s.must(s.lists(a, nodestate.PhaseDraining)())
		s.must(s.hasDevice("p1", a))
		s.must(s.delete("p1"))
		cluster.Eventually(t, "end of p1", settle, s.ended)
		took := cluster.Eventually(t, "release", releaseBound, s.lists(a, ""))
		t.Logf("end of the last holder to release: %v", took)
		s.must(s.unheld())
	})

	t.Run("set up after the removal", func(t *testing.T) {
		s := s.with(t)
		s.must(s.declare(a))
		cluster.Eventually(t, "allocatable 1", restart, s.counts(a, 1))
		s.served(placeholder)
		plugin := filepath.Join(node.CNIBinDir, "multi-eni")
		s.must(os.Rename(plugin, plugin+".away"))
		s.must(s.create("p2", a.resource()))
		cluster.Eventually(s.T, "allocation", settle, func() error {
			got, err := s.allocations()
			if err != nil {
				return err
			}
			return want(got[a.PCI], "p2")
		})
		s.must(s.withdraw(a))
		cluster.Eventually(s.T, "placeholder", settle, s.offers())
		cluster.Eventually(s.T, "allocatable 0", restart, s.counts(a, 0))
		s.served("")
		s.must(os.Rename(plugin+".away", plugin))
		cluster.Eventually(s.T, "pod p2", settle, s.inPhase("p2", corev1.PodRunning))
		s.must(s.hasDevice("p2", a))
		s.must(s.lists(a, nodestate.PhaseDraining)())
		s.must(s.delete("p2"))
		cluster.Eventually(t, "release", settle, s.lists(a, ""))
		s.must(s.unheld())
	})
}

func (s *stage) with(t *testing.T) *stage {
	out := *s
	out.T = t
	return &out
}
