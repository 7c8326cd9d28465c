// Package hotplug attaches and detaches ENIs as EC2 does, while pods use them.
package hotplug

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

const (
	primaryMAC   = "02:00:00:00:00:01"
	machineSlots = 8
	// orphanGrace is short, so that pods that die without DEL are released soon.
	orphanGrace = time.Second
	soon        = 60 * time.Second
	// orphanSoon is soon after the daemon has noticed the end of a netns. It checks every 10 s.
	orphanSoon = 10*time.Second + soon
)

func TestMain(m *testing.M) {
	// Slots are worked on in parallel, on any number of processors.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	machine.Main(m, machine.Spec{NICs: []machine.NIC{{ID: "primary", MAC: primaryMAC}}})
}

func TestHotPlug(t *testing.T) {
	s := newStage(t)
	t.Run("ready", s.testReady)
	t.Run("removed", func(t *testing.T) {
		t.Run("taken from its pods", func(t *testing.T) {
			t.Parallel()
			s.testRemoval(t)
		})
		t.Run("replaced", func(t *testing.T) {
			t.Parallel()
			s.testReplaced(t, true)
		})
	})
	t.Run("replaced unseen", func(t *testing.T) { s.testReplaced(t, false) })
	t.Run("storm", s.testStorm)
	t.Run("at rest", s.testAtRest)
}

type stage struct {
	*observer
	cloud    *guest.Cloud
	daemon   *guest.Daemon
	arrivals *arrivals
}

func newStage(t *testing.T) *stage {
	guest.Clean(t)
	s := &stage{cloud: guest.NewCloud(t, primaryMAC), arrivals: followLinks(t), observer: observe(t)}
	s.daemon = guest.StartDaemon(t, guest.DaemonOptions{
		IMDS: s.cloud.URL(), Flags: []string{"--orphan-grace=" + orphanGrace.String(), "--log-format=json", "--log-level=info"},
	})
	t.Cleanup(func() { checkLog(t, s.daemon.Log()) })
	s.await(t, "the daemon's first inventory and config", soon, func(inv nodestate.Inventory, config string) bool {
		return inv.NodeName != "" && config != ""
	})
	return s
}

type arrivals struct {
	mu   sync.Mutex
	when map[device.MAC]time.Time
}

func followLinks(t *testing.T) *arrivals {
	a := &arrivals{when: map[device.MAC]time.Time{}}
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		t.Fatalf("subscribe to link events: %v", err)
	}
	t.Cleanup(func() { close(done) })
	go func() {
		for u := range updates {
			mac := device.MAC(u.Attrs().HardwareAddr.String())
			a.mu.Lock()
			if _, known := a.when[mac]; !known {
				a.when[mac] = time.Now()
			}
			a.mu.Unlock()
		}
	}()
	return a
}

func (a *arrivals) of(t testing.TB, mac device.MAC) time.Time {
	t.Helper()
	var at time.Time
	guest.Eventually(t, "netdev "+mac.String(), soon, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		at = a.when[mac]
		return !at.IsZero()
	})
	return at
}

const vfio = "vfio-pci"

type kind int

const (
	kernel     kind = 1 // not advertised
	advertised kind = 2
	dpdk       kind = 3
)

// resource is the name under which an ENI of that index is advertised, "" if it is not.
func (k kind) resource(index int) device.ResourceName {
	switch k {
	case kernel:
	case advertised:
		return device.ResourceName(fmt.Sprintf("intel.com/storm_%d", index))
	case dpdk:
		return "intel.com/storm_dpdk"
	}
	return ""
}

// declare writes the manifest of a NodeENI for an ENI, named by its status or by device index and subnet.
func declare(t testing.TB, name string, e guest.ENI, k kind, byStatus bool) {
	t.Helper()
	spec := v1alpha1.NodeENISpec{SubnetID: guest.CloudSubnet.String(), DeviceIndex: e.Index, DPDKResourceName: k.resource(e.Index).String()}
	if k == dpdk {
		spec.EnableDPDK, spec.DPDKDriver = true, vfio
	}
	var attached []v1alpha1.ENIAttachment
	if byStatus {
		attached = append(attached, e.Attached())
	}
	guest.WriteNodeENI(t, name, spec, attached...)
}
