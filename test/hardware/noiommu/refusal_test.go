package noiommu

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const soon = 60 * time.Second

// TestNoIOMMU: vfio-pci is refused with the remedies, unsafe mode or not. The device stays usable. uio needs no IOMMU.
func TestNoIOMMU(t *testing.T) {
	guest.Clean(t)
	const mac, id, subnet = macENI, "eni-0a1b2c3d4e5f60001", "subnet-0a1b2c3d4e5f60001"
	pci, name := guest.WaitNIC(t, mac)
	guest.SetUp(t, name)
	t.Cleanup(func() { guest.SetDown(t, name) })
	link, ok := guest.ByName(name)
	if !ok {
		t.Fatalf("no link %s", name)
	}
	eni := fakeimds.ENI{ID: id, MAC: mac, DeviceIndex: 1, SubnetID: subnet, SubnetIPv4CIDR: "10.0.1.0/24", IPv4s: []string{"10.0.1.15"}}
	imds := guest.StartIMDS(t, eni)
	spec := v1alpha1.NodeENISpec{SubnetID: subnet, DeviceIndex: 1, EnableDPDK: true}
	guest.WriteNodeENI(t, "a", spec)
	for _, c := range []struct {
		flags []string
		says  []string
	}{
		{nil, []string{pci, "behind no IOMMU", "--allow-unsafe-noiommu", "intel_iommu=on"}},
		{[]string{"--allow-unsafe-noiommu"}, []string{pci, "CONFIG_VFIO_NOIOMMU", "uio_pci_generic"}},
	} {
		d := guest.StartDaemon(t, guest.DaemonOptions{IMDS: imds.URL, Flags: c.flags})
		awaitProblem(t, "NoIOMMU", c.says)
		d.Stop()
		if now, ok := guest.ByName(name); !ok || now.Attrs().Index != link.Attrs().Index || now.Attrs().Flags&1 == 0 {
			t.Fatalf("flags %q: link %s is not as it was: %v", c.flags, name, now)
		}
		if guest.Advertised(t, pci) {
			t.Errorf("flags %q: %s is advertised", c.flags, pci)
		}
	}
	pod := guest.CNICall{ContainerID: "pod", Netns: guest.NewNetns(t, "pod"), Conf: `{"cniVersion":"1.1.0","name":"n","type":"multi-eni","deviceID":"` + pci +
		`","ipam":{"type":"static","addresses":[{"address":"10.0.1.10/24"}]}}`}
	spec.EnableDPDK = false
	guest.WriteNodeENI(t, "a", spec)
	guest.StartDaemon(t, guest.DaemonOptions{IMDS: imds.URL})
	guest.AwaitPhase(t, id, nodestate.PhaseReady, soon)
	guest.MustAdd(t, pod)
	guest.MustDel(t, pod)

	guest.LoadModule(t, "uio_pci_generic")
	spec.EnableDPDK, spec.DPDKDriver = true, "uio_pci_generic"
	guest.WriteNodeENI(t, "a", spec)
	guest.Eventually(t, pci+" is advertised with uio_pci_generic", soon, func() bool {
		return guest.Driver(pci) == "uio_pci_generic" && guest.Advertised(t, pci)
	})
	guest.RemoveNodeENI(t, "a")
	guest.Eventually(t, pci+" is back", soon, func() bool { return guest.Netdev(pci) == name && guest.Row(t, id).Phase == "" })
	guest.AwaitRestored(t, pci, soon)
	guest.UnloadModule(t, "uio_pci_generic")
}

func awaitProblem(t *testing.T, reason string, parts []string) {
	t.Helper()
	var message string
	guest.Eventually(t, "a problem "+reason, soon, func() bool {
		problems := guest.Inventory(t).Problems
		i := slices.IndexFunc(problems, func(p nodestate.Problem) bool {
			return string(p.Reason) == reason && strings.Contains(p.Message, parts[1])
		})
		if i >= 0 {
			message = problems[i].Message
		}
		return i >= 0
	})
	for _, p := range parts {
		if !strings.Contains(message, p) {
			t.Errorf("problem %s: %q lacks %q", reason, message, p)
		}
	}
}
