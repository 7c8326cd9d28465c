package noiommu

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// TestOfferedWithoutIOMMU: the kubelet is offered no device that cannot be bound, and uio's like the SR-IOV device plugin does.
func TestOfferedWithoutIOMMU(t *testing.T) {
	guest.Clean(t)
	const id, subnet, resource = "eni-0a1b2c3d4e5f60001", "subnet-0a1b2c3d4e5f60001", "intel.com/uio"
	pci, name := guest.WaitNIC(t, macENI)
	eni := fakeimds.ENI{ID: id, MAC: macENI, DeviceIndex: 1, SubnetID: subnet, SubnetIPv4CIDR: "10.0.1.0/24", IPv4s: []string{"10.0.1.15"}}
	imds := guest.StartIMDS(t, eni)
	k := guest.StartKubelet(t)
	spec := v1alpha1.NodeENISpec{SubnetID: subnet, DeviceIndex: 1, EnableDPDK: true, DPDKResourceName: resource}
	guest.WriteNodeENI(t, "a", spec)
	guest.StartDaemon(t, guest.DaemonOptions{IMDS: imds.URL, Flags: []string{"--offer=deviceplugin"}})
	awaitProblem(t, "NoIOMMU", []string{pci, "behind no IOMMU"})
	if got := k.Healths(pci); len(got) > 0 {
		t.Errorf("the kubelet was offered %s: %v", pci, got)
	}

	guest.LoadModule(t, "uio_pci_generic")
	spec.DPDKDriver = "uio_pci_generic"
	guest.WriteNodeENI(t, "a", spec)
	k.AwaitHealthy(soon, resource, pci)
	answer, err := k.Admit("pod", resource)
	if err != nil {
		t.Fatal(err)
	}
	guest.WantAnswer(t, answer, "uio_pci_generic", resource, pci)
	k.EndPod("pod")
	guest.RemoveNodeENI(t, "a")
	guest.Eventually(t, pci+" is back", soon, func() bool { return guest.Netdev(pci) == name && guest.Row(t, id).Phase == "" })
	guest.AwaitRestored(t, pci, soon)
	guest.Eventually(t, pci+" is unlisted", soon, func() bool { // the daemon lists it for a few seconds more
		got := k.Healths(pci)
		return got[len(got)-1].Is == guest.Unlisted
	})
	guest.UnloadModule(t, "uio_pci_generic")
}
