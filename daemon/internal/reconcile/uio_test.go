package reconcile

import (
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
)

// Where the kernel does not tell whether a uio device is open, records and kubelet decide, but not a kubelet that has
// just started: its list may lack the pod.
func TestUnseenUseWaitsForTheKubelet(t *testing.T) {
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{}
	n.start()
	n.declare("a", 1, fastDPDK, "enableDPDK: true", "dpdkDriver: uio_pci_generic")
	n.settle()
	n.expectDriver(1, "uio_pci_generic")
	n.drivers.openErr = driver.ErrUnseen
	n.kubelet.devices = inventory.Kubelet{Fresh: true}
	n.undeclare("a")
	for range 90 {
		n.sync()
		n.now = n.now.Add(time.Second)
	}
	n.expectDriver(1, "uio_pci_generic")
	if !slices.Contains(n.reasons(), "DeviceUseUnknown") {
		t.Errorf("problems %q", n.reasons())
	}
	n.kubelet.devices = inventory.Kubelet{}
	n.settle()
	n.expect(nil, nil, nil)
	n.expectDriver(1, "ena")
}
