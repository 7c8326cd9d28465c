package reconcile

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

type hungKubelet struct{ asked int }

func (k *hungKubelet) Devices(ctx context.Context) (inventory.Kubelet, error) {
	k.asked++
	<-ctx.Done()
	return inventory.Kubelet{}, ctx.Err()
}

// However many devices wait, one Sync asks a hanging kubelet once, and later Syncs wait until it is due. The problem
// stays.
func TestHungKubelet(t *testing.T) {
	const devices = 12
	n := newNode(t)
	n.kubelet = &fakeKubelet{}
	n.start()
	hung := &hungKubelet{}
	n.daemon.kubelet.from = hung
	for e := range devices {
		n.attach(e + 1)
		n.declareDPDK(fmt.Sprintf("n%02d", e), e+1)
	}
	for range 5 { // until all are seen, and after that
		n.sync()
	}
	if hung.asked != 1 {
		t.Errorf("asked %d times", hung.asked)
	}
	if !slices.Contains(n.reasons(), "KubeletUnreadable") {
		t.Errorf("problems %q", n.reasons())
	}
	n.syncAfter(silentFirst)
	n.sync()
	if hung.asked != 2 {
		t.Errorf("asked %d times, want again after %v", hung.asked, silentFirst)
	}
	n.now = n.now.Add(-time.Hour) // a clock that is set back ends the wait
	n.sync()
	if hung.asked != 3 {
		t.Errorf("asked %d times after the clock was set back", hung.asked)
	}
	n.daemon.kubelet.from = n.kubelet // it answers again
	n.settleAfter(silentLatest)
	if got := len(n.inventory().Devices); got != devices || slices.Contains(n.reasons(), "KubeletUnreadable") {
		t.Errorf("%d devices, problems %q", got, n.reasons())
	}
	for e := range devices {
		n.expectDriver(e+1, "vfio-pci")
	}
}

func TestOneQuestionPerSync(t *testing.T) {
	n := newNode(t, 1, 2, 3)
	n.kubelet = &fakeKubelet{}
	n.start()
	n.declareDPDK("a", 1)
	n.settle()
	n.undeclare("a")
	n.declareDPDK("b", 2)
	n.declareDPDK("c", 3)
	n.kubelet.devices = inventory.Kubelet{Allocated: map[device.PCIAddress][]inventory.Container{pci(1): {{Pod: "p"}}}}
	for range 20 {
		before := n.kubelet.asked
		n.daemon.Sync(t.Context())
		n.answered()
		if asked := n.kubelet.asked - before; asked > 1 {
			t.Errorf("%d questions in one Sync", asked)
		}
		n.now = n.now.Add(time.Second)
	}
}
