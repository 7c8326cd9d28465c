package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// A retry neither ends the problem nor begins another.
func TestFailedBindIsOneState(t *testing.T) {
	n := newNode(t, 1)
	n.drivers.fail = map[device.PCIAddress]error{pci(1): errors.New("probe refused")}
	n.declareDPDK("a", 1)
	n.settle()
	n.settle()
	began := 0
	for _, e := range n.logs.AllEntries() {
		if e.Data["reason"] != "DriverNotBound" {
			continue
		}
		if e.Message != "problem found" {
			t.Errorf("logged %q while it lasts", e.Message)
		}
		began++
	}
	if tries := len(n.binds()); began != 1 || tries < 4 {
		t.Errorf("logged %d times in %d tries, want once", began, tries)
	}
}

// A failed change leaves the device usable; its remains are removed later, without an event.
func TestUntidyIsTriedAgain(t *testing.T) {
	n := newNode(t, 1)
	was := n.custom(1)
	refused := map[device.PCIAddress]error{pci(1): errors.New("driver_override cannot be written")}
	n.drivers.fail, n.drivers.untidy = refused, refused
	n.declareDPDK("a", 1)
	for len(n.binds()) == 0 {
		n.sync()
	}
	n.undeclare("a")
	n.settle()
	same(t, "link", was, n.host.links[1])
	n.expect(nil, []string{"DriverNotBound"}, nil)
	began := 0
	for _, e := range n.logs.AllEntries() {
		if strings.Contains(fmt.Sprint(e.Data["detail"]), "bound to ena") {
			began++
		}
	}
	if began != 1 || n.drivers.tidied < 3 {
		t.Errorf("logged %d times in %d tries, want once", began, n.drivers.tidied)
	}
	n.drivers.mu.Lock()
	n.drivers.untidy = nil
	n.drivers.mu.Unlock()
	n.settle()
	n.expect(nil, nil, nil)
	n.expectHost(1, was)
}

// Another device's change of the config does not end the problem.
func TestOpenDeviceIsOneState(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declareDPDK("a", 1)
	n.settle()
	n.drivers.open = map[device.PCIAddress]bool{pci(1): true}
	n.undeclare("a")
	n.settle()
	n.expect([]string{"a  draining"}, []string{"DeviceOpen"}, nil)
	n.logs.Reset()
	n.declare("b", 2, "dpdkResourceName: intel.com/other")
	n.settle()
	n.undeclare("b")
	n.settle()
	n.expect([]string{"a  draining"}, []string{"DeviceOpen"}, nil)
	for _, e := range n.logs.AllEntries() {
		if e.Data["reason"] == "DeviceOpen" {
			t.Errorf("logged %q while it lasts", e.Message)
		}
	}
}

func TestNotServedWhileDriving(t *testing.T) {
	kernel := func(n *testNode) { n.declare("a", 1, fastDPDK) }
	userspace := func(n *testNode) { n.declareDPDK("a", 1) }
	for name, story := range map[string]struct {
		first, change func(*testNode)
		row           string
	}{
		"bind":      {kernel, userspace, "a eth1 ready"},
		"give back": {userspace, kernel, "a  ready"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			story.first(n)
			n.settle()
			hang := make(chan struct{})
			n.drivers.hang = map[device.PCIAddress]chan struct{}{pci(1): hang}
			story.change(n)
			n.settle()
			if len(n.daemon.drivers.Jobs()) != 1 {
				t.Fatal("no driver is being changed")
			}
			story.first(n)
			n.settle()
			if got := n.inventory().Devices[0].Phase; got != nodestate.PhaseDraining {
				t.Errorf("it is %s while its driver is being changed", got)
			}
			if got := n.judge(); len(got) != 0 {
				t.Errorf("offered: %v", got)
			}
			n.drivers.mu.Lock()
			n.drivers.hang = nil
			n.drivers.mu.Unlock()
			close(hang)
			n.settle()
			n.settle()
			n.expect([]string{story.row}, nil, pools{"intel.com/fast": {pci(1)}})
		})
	}
}

// The resource changes with the driver, and a device plugin that is not found still offers the device as it was.
func TestOfferedUnderAnotherName(t *testing.T) {
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{}
	n.start()
	n.declare("a", 1, fastDPDK)
	n.settle()
	n.kubelet.devices.Allocatable = map[device.ResourceName][]device.PCIAddress{"intel.com/fast": {pci(1)}}
	n.restarts.err = pluginrestart.ErrNoDevicePlugin
	n.declare("a", 1, "dpdkResourceName: intel.com/other", "enableDPDK: true")
	n.settle()
	n.expectDriver(1, "ena")
	n.expect([]string{"a  draining"}, []string{"DriverNotBound"}, nil)
	n.kubelet.devices.Allocatable = nil
	n.settle()
	n.expect([]string{"a  ready"}, nil, pools{"intel.com/other": {pci(1)}})
}

func TestRestoreRecordOfAnotherFunction(t *testing.T) {
	n := newNode(t, 1)
	was := nodestate.LinkState{Name: "ens7", MAC: mac(1), MTU: 9001, Up: true}
	n.must(n.records().SaveRestore(nodestate.Restore{
		BootID: n.boot, Driver: "ena",
		Device: nodestate.AttachedDevice{PCIAddress: pci(1), ENIID: eniID(1), VF: true, Instance: n.instance(1) + 1, Link: &was},
	}))
	n.declare("a", 1)
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, nil)
	if slices.Contains(n.host.changes, "restore eth1") {
		t.Errorf("changes of links: %q", n.host.changes)
	}
	if waiting, err := n.records().Restores(); err != nil || len(waiting) > 0 {
		t.Errorf("left to restore: %v, %v", waiting, err)
	}
}
