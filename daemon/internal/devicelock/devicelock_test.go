package devicelock

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

type functions struct{}

func (functions) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	return sysfs.PCIFunction{Address: addr}, nil
}

// TestLock: one process has the lock, and a pod with the device keeps the daemon from it.
func TestLock(t *testing.T) {
	const pci = device.PCIAddress("0000:00:07.0")
	records := nodestate.AttachmentDir(t.TempDir())
	l := Locker{BootID: "boot", Attachments: records, PCI: functions{}}
	unlock, err := l.LockFor(t.Context(), time.Second, pci)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Lock(ended, pci); !errors.Is(err, nodestate.ErrBusy) {
		t.Errorf("second lock: %v, want %v", err, nodestate.ErrBusy)
	}
	unlock()
	rec, err := records.Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: "c", IfName: "net1"}, BootID: "boot", Mode: nodestate.ModeShared,
		Device: nodestate.AttachedDevice{PCIAddress: pci, MAC: "02:00:00:00:00:01", ENIID: "eni-00000000000000001"},
	})
	if err != nil {
		t.Fatal(err)
	}
	rec.Close()
	if _, err := l.LockFor(t.Context(), time.Second, pci); !errors.Is(err, ErrNotOurs) {
		t.Errorf("with a pod: %v, want %v", err, ErrNotOurs)
	}
	lock, err := l.LockUnless(t.Context(), pci, nodestate.Mode.Exclusive)
	if err != nil {
		t.Fatalf("unless a pod owns it: %v", err)
	}
	lock.Close()
	l.BootID = "later"
	if unlock, err = l.LockFor(t.Context(), time.Second, pci); err != nil {
		t.Fatalf("after a reboot: %v", err)
	}
	unlock()
}
