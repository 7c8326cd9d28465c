package reconcile

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const fastDPDK = "dpdkResourceName: intel.com/fast"

func (n *testNode) declareDPDK(name string, e int) {
	n.declare(name, e, fastDPDK, "enableDPDK: true")
}

func (n *testNode) expectDriver(e int, want string) {
	n.Helper()
	for _, d := range n.machine() {
		if d.Address == pci(e) && d.Driver != want {
			n.Errorf("%s is bound to %s, want %s", d.Address, d.Driver, want)
		}
	}
}

func (n *testNode) expectHost(e int, want link.Link) {
	n.Helper()
	same(n, "link", want, n.host.links[e])
	if waiting, err := n.records().Restores(); err != nil || len(waiting) > 0 {
		n.Errorf("left to restore: %v, %v", waiting, err)
	}
}

func (n *testNode) custom(e int) link.Link {
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	l := n.host.links[e]
	l.Name, l.MTU, l.Up = "ens7", 9001, true
	n.host.links[e] = l
	return l
}

func TestBindAndGiveBack(t *testing.T) {
	n := newNode(t, 1)
	was := n.custom(1)
	n.declareDPDK("a", 1)
	n.settle()
	n.expect([]string{"a  ready"}, nil, pools{"intel.com/fast": {pci(1)}})
	n.expectDriver(1, "vfio-pci")
	n.start() // the next daemon knows it too
	n.settle()
	n.expect([]string{"a  ready"}, nil, pools{"intel.com/fast": {pci(1)}})
	n.undeclare("a")
	n.settle()
	n.expect(nil, nil, nil)
	n.expectDriver(1, "ena")
	n.expectHost(1, was)
	same(t, "binds", []string{"0001 vfio-pci", "0001 ena"}, n.binds())
}

// binds lists the binds so far, each with the last part of its address.
func (n *testNode) binds() []string {
	n.drivers.mu.Lock()
	defer n.drivers.mu.Unlock()
	var all []string
	for _, d := range n.drivers.done {
		all = append(all, "00"+d[5:7]+d[len("0000:00:00.0"):])
	}
	return all
}

// An advertised device changes its driver only when the device plugin no longer offers it.
func TestSwitchDPDK(t *testing.T) {
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{}
	n.start()
	n.declare("a", 1, fastDPDK)
	n.settle()
	was := n.host.links[1]
	n.kubelet.devices.Allocatable = map[device.ResourceName][]device.PCIAddress{"intel.com/fast": {pci(1)}}
	n.declareDPDK("a", 1)
	n.settle()
	n.expect([]string{"a  draining"}, nil, nil)
	n.expectDriver(1, "ena")
	n.kubelet.devices.Allocated = map[device.PCIAddress][]inventory.Container{pci(1): {{Namespace: "ns", Pod: "p", Container: "c"}}}
	n.kubelet.devices.Allocatable = nil
	n.settle()
	n.expect([]string{"a  draining"}, nil, nil)
	n.kubelet.devices.Allocated = nil
	n.settle()
	n.expect([]string{"a  ready"}, nil, pools{"intel.com/fast": {pci(1)}})
	n.declare("a", 1, fastDPDK)
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
	n.expectHost(1, was)
}

func TestBindRefused(t *testing.T) {
	tests := map[string]struct {
		arrange func(n *testNode)
		undo    func(n *testNode)
		reason  string
	}{
		"obstacle": {
			func(n *testNode) { n.drivers.obstacle = map[device.PCIAddress]string{pci(1): "NoIOMMU"} },
			func(n *testNode) { n.drivers.obstacle = nil }, "NoIOMMU",
		},
		"the kubelet has given it away": {
			func(n *testNode) {
				n.kubelet = &fakeKubelet{devices: inventory.Kubelet{Allocated: map[device.PCIAddress][]inventory.Container{pci(1): {{Pod: "p"}}}}}
				n.start()
			}, func(n *testNode) { n.kubelet.devices.Allocated = nil }, "DriverNotBound",
		},
		"the kubelet does not answer": {
			func(n *testNode) { n.kubelet = &fakeKubelet{err: errors.New("no")}; n.start() },
			func(n *testNode) { n.kubelet.err = nil }, "KubeletUnreadable",
		},
		"the only default route": {
			func(n *testNode) { n.host.routes = map[int]bool{1: true} },
			func(n *testNode) { n.host.routes = map[int]bool{0: true} }, "OnlyDefaultRoute",
		},
		"somebody is at work on it": {
			func(n *testNode) {
				unlock, err := n.records().LockDevice(n.Context(), pci(1))
				n.must(err)
				n.Cleanup(unlock)
				n.unlock = unlock
			}, func(n *testNode) { n.unlock() }, "DriverStuck",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			was := n.custom(1)
			tt.arrange(n)
			n.declareDPDK("a", 1)
			n.settle()
			n.expect([]string{"a  pending"}, []string{tt.reason}, nil)
			n.expectDriver(1, "ena")
			n.expectHost(1, was)
			tt.undo(n)
			n.settle()
			n.expect([]string{"a  ready"}, nil, pools{"intel.com/fast": {pci(1)}})
		})
	}
}

func TestBindFails(t *testing.T) {
	n := newNode(t, 1)
	was := n.custom(1)
	n.drivers.fail = map[device.PCIAddress]error{pci(1): errors.New("probe refused")}
	n.declareDPDK("a", 1)
	n.settle()
	n.expect([]string{"a  pending"}, []string{"DriverNotBound"}, nil)
	n.expectDriver(1, "ena")
	n.expectHost(1, was)
	if tries := len(n.binds()); tries < 4 || tries > 7 {
		t.Errorf("tried %d times in a minute, want 2, 4, 8, 16, 32 s apart", tries)
	}
	if logged := n.logged(); !slices.Contains(logged, "problem found") {
		t.Errorf("log %q", logged)
	}
	n.drivers.fail = nil
	n.settle()
	n.settle()
	n.expect([]string{"a  ready"}, nil, pools{"intel.com/fast": {pci(1)}})
}

func TestOpenDeviceIsNotTaken(t *testing.T) {
	n := newNode(t, 1)
	n.declareDPDK("a", 1)
	n.settle()
	n.drivers.open = map[device.PCIAddress]bool{pci(1): true}
	n.undeclare("a")
	n.settle()
	n.expect([]string{"a  draining"}, []string{"DeviceOpen"}, nil)
	n.expectDriver(1, "vfio-pci")
	n.drivers.open, n.drivers.openErr = nil, errors.New("no such node")
	n.settle()
	n.expect([]string{"a  draining"}, []string{"DeviceUseUnknown"}, nil)
	n.drivers.openErr = nil
	n.settle()
	n.expect(nil, nil, nil)
	n.expectDriver(1, "ena")
}

// An unbind that hangs in the kernel delays nothing else, even for the next daemon.
func TestStuckDriver(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declareDPDK("a", 1)
	n.declareDPDK("b", 2)
	n.settle()
	hang := make(chan struct{})
	n.drivers.hang = map[device.PCIAddress]chan struct{}{pci(1): hang}
	n.undeclare("a")
	n.undeclare("b")
	n.settle()
	n.expect([]string{"a  draining"}, []string{"DriverStuck"}, nil)
	n.expectDriver(2, "ena")
	n.start()
	n.settle()
	n.expect([]string{"a  draining"}, []string{"DriverStuck"}, nil)
	close(hang)
	n.drivers.mu.Lock()
	n.drivers.hang = nil
	n.drivers.mu.Unlock()
	for len(n.binds()) < 4 {
		time.Sleep(time.Millisecond)
	}
	n.settle()
	n.expect(nil, nil, nil)
	n.expectDriver(1, "ena")
	if got := n.binds(); len(got) != 4 {
		t.Errorf("binds %q: the device that hung was bound twice", got)
	}
}

func TestDaemonEndsWhileDriving(t *testing.T) {
	restore := func(n *testNode) {
		l := n.host.links[1].State()
		n.must(n.records().SaveRestore(nodestate.Restore{BootID: n.boot, Driver: "ena", Device: nodestate.AttachedDevice{Instance: n.instance(1),
			PCIAddress: pci(1), MAC: mac(1), ENIID: eniID(1), NodeENI: "a", Link: &l,
		}}))
	}
	down := func(n *testNode) {
		restore(n)
		l := n.host.links[1]
		l.Up = false
		n.host.links[1] = l
	}
	bound := func(n *testNode) {
		down(n)
		n.bind(1, "vfio-pci")
		delete(n.host.links, 1)
		n.must(os.RemoveAll(n.path("sys/bus/pci/devices", pci(1).String(), "net")))
	}
	for name, stopped := range map[string]func(n *testNode){"after the restore record": restore, "after the link was set down": down, "after the bind": bound} {
		for _, declared := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				n := newNode(t, 1)
				was := n.custom(1)
				n.declareDPDK("a", 1)
				n.drivers.obstacle = map[device.PCIAddress]string{pci(1): "NoIOMMU"} // so far it has come
				n.sync()
				n.drivers.obstacle = nil
				stopped(n)
				if !declared {
					n.undeclare("a")
				}
				n.start()
				n.settle()
				if declared {
					n.expect([]string{"a  ready"}, nil, pools{"intel.com/fast": {pci(1)}})
					return
				}
				n.expect(nil, nil, nil)
				n.expectDriver(1, "ena")
				n.expectHost(1, was)
				if tidied := name != "after the bind"; tidied != (n.drivers.tidied == 1) {
					t.Errorf("tidied up %d times", n.drivers.tidied)
				}
			})
		}
	}
}
