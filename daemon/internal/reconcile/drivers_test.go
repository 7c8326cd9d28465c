package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// fakeDrivers is the kernel's driver core: its binds show in sysfs and links. It fails the test if a device is bound
// too early.
type fakeDrivers struct {
	n        *testNode
	mu       sync.Mutex
	obstacle map[device.PCIAddress]string
	open     map[device.PCIAddress]bool
	openErr  error
	fail     map[device.PCIAddress]error
	untidy   map[device.PCIAddress]error // the error of the next binds to the driver that the function already has
	hang     map[device.PCIAddress]chan struct{}
	// hung are the functions whose bind waits; judged is called as each bind begins.
	hung   map[device.PCIAddress]bool
	judged func(addr device.PCIAddress, to string)
	done   []string // "address driver"
	tidied int      // tidied counts binds to the driver that the function already had
}

func (f *fakeDrivers) Obstacle(fn sysfs.PCIFunction, to string, all map[device.PCIAddress]sysfs.PCIFunction,
	wanted func(device.PCIAddress) bool) (*driver.Obstacle, error) {
	if _, there := all[fn.Address]; !there || !wanted(fn.Address) || fn.Driver == to {
		f.n.Errorf("asked whether %s can be bound to %s, which is not wanted", fn.Address, to)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if reason := f.obstacle[fn.Address]; reason != "" {
		return &driver.Obstacle{Reason: nodestate.Reason(reason), Message: "in the way"}, nil
	}
	return nil, nil
}

func (f *fakeDrivers) Open(fn sysfs.PCIFunction) (node string, open bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "/dev/vfio/7", f.open[fn.Address], f.openErr
}

func (f *fakeDrivers) hangs(pci device.PCIAddress) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hang[pci] != nil
}

func (f *fakeDrivers) Bind(fn sysfs.PCIFunction, to string, lock *os.File) error {
	addr := fn.Address
	if fn.Instance != f.n.instance(f.n.eni(addr)) {
		f.n.Errorf("%s is bound to %s, and is another function", addr, to)
	}
	if now, err := sysfs.NewFS(f.n.path("sys")).PCI(addr); err == nil && now.Driver == to {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tidied++
		return f.untidy[addr] // as the real one does, which only takes the override away
	}
	f.check(addr, to, lock)
	f.mu.Lock()
	hang, fail := f.hang[addr], f.fail[addr]
	f.mu.Unlock()
	if f.judged != nil {
		f.judged(addr, to)
	}
	if hang != nil {
		f.wait(addr, hang)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, addr.String()+" "+to)
	if fail != nil {
		return fail
	}
	e := f.n.eni(addr)
	f.n.bind(e, to)
	if (sysfs.PCIFunction{Driver: to}).UserspaceDriver() {
		f.n.host.mu.Lock()
		delete(f.n.host.links, e)
		f.n.host.mu.Unlock()
		return os.RemoveAll(f.n.path("sys/bus/pci/devices", addr.String(), "net"))
	}
	f.n.mkdir("sys/bus/pci/devices", addr.String(), "net", "new0")
	f.n.addLink(e, "new0") // as the kernel names it, and down
	return nil
}

func (f *fakeDrivers) wait(addr device.PCIAddress, hang chan struct{}) {
	f.mu.Lock()
	if f.hung == nil {
		f.hung = map[device.PCIAddress]bool{}
	}
	f.hung[addr] = true
	f.mu.Unlock()
	<-hang
	f.mu.Lock()
	delete(f.hung, addr)
	f.mu.Unlock()
}

// check fails unless the device is locked, checkpointed, recorded, down and out of the config.
func (f *fakeDrivers) check(addr device.PCIAddress, to string, lock *os.File) {
	n := f.n
	expired, cancel := context.WithCancel(context.Background())
	cancel()
	if unlock, err := n.records().LockDevice(expired, addr); !errors.Is(err, nodestate.ErrBusy) {
		n.Errorf("%s is bound to %s without its device lock (%v)", addr, to, err)
		if err == nil {
			unlock()
		}
	}
	if lock.Name() == "" || lock.Fd() == ^uintptr(0) {
		n.Errorf("the device lock of %s is closed", addr)
	}
	rec, err := n.records().LoadRestore(addr)
	if err != nil || rec.Driver != "ena" || rec.Device.Link == nil || rec.BootID != n.boot {
		n.Errorf("%s is bound to %s with the restore record %+v, %v", addr, to, rec, err)
	}
	for pool, devices := range n.judge() {
		for _, d := range devices {
			if d == addr {
				n.Errorf("%s is bound to %s while %s offers it", addr, to, pool)
			}
		}
	}
	n.host.mu.Lock()
	l, linked := n.host.links[n.eni(addr)]
	n.host.mu.Unlock()
	if !linked {
		return
	}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
	known := false
	for _, d := range c.Devices {
		known = known || d.PCIAddress == addr && d.MAC == l.MAC
	}
	if err != nil || !known {
		n.Errorf("%s is bound to %s, and the checkpoint does not know it: %v", addr, to, err)
	}
	if l.Up {
		n.Errorf("%s is bound to %s while its link is up", addr, to)
	}
}

func (n *testNode) eni(addr device.PCIAddress) int {
	var domain, bus int
	if _, err := fmt.Sscanf(addr.String(), "%04x:%02x:00.0", &domain, &bus); err != nil {
		n.Errorf("%s is none of the node's ENIs", addr)
	}
	return domain<<8 | bus
}
