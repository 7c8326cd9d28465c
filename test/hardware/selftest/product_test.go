package selftest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const subnet = "subnet-0a1b2c3d4e5f60001"

// The plugin moves real NICs, the guest's helpers see it, and traffic flows over the machine's wire.
func TestPlugin(t *testing.T) {
	guest.Clean(t)
	pods := [2]guest.CNICall{}
	for i := range pods {
		pci, _ := guest.WaitNIC(t, fmt.Sprintf("02:00:00:00:01:%02x", i))
		pods[i] = guest.CNICall{
			ContainerID: fmt.Sprint("pod", i), Netns: guest.NewNetns(t, fmt.Sprint("pod", i)),
			Conf: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"multi-eni","deviceID":%q,"ipam":{"type":"static","addresses":[{"address":"10.9.0.%d/24"}]}}`,
				pci, i+1),
		}
		r := guest.MustAdd(t, pods[i])
		if got := r.Result.IPs[0].Address.String(); got != fmt.Sprintf("10.9.0.%d/24", i+1) {
			t.Errorf("address %s", got)
		}
		if got := guest.Netdev(pci); got != "" {
			t.Errorf("%s is still in the host", got)
		}
	}
	guest.Talk(t, pods[0].Netns, pods[1].Netns, "10.9.0.1:7000")
	held := pods[0]
	held.Verb, held.ContainerID, held.Netns = "ADD", "other", guest.NewNetns(t, "other")
	guest.WantCode(t, held, 101, "pod0")
	for _, p := range pods {
		guest.MustDel(t, p)
	}
}

func TestDaemon(t *testing.T) {
	guest.Clean(t)
	const mac = "02:00:00:00:01:02"
	pci, _ := guest.WaitNIC(t, mac)
	eni := fakeimds.ENI{ID: "eni-0123456789abcde02", MAC: mac, DeviceIndex: 2, SubnetID: subnet, SubnetIPv4CIDR: "10.0.2.0/24", IPv4s: []string{"10.0.2.12"}}
	imds := guest.StartIMDS(t, eni)
	guest.WriteNodeENI(t, "a", v1alpha1.NodeENISpec{SubnetID: subnet, DeviceIndex: 2, DPDKResourceName: "intel.com/a"}, guest.Attached(eni))
	d := guest.StartDaemon(t, guest.DaemonOptions{IMDS: imds.URL})
	row := guest.AwaitPhase(t, eni.ID, nodestate.PhaseReady, 30*time.Second)
	if string(row.PCIAddress) != pci {
		t.Errorf("the row is at %s, the NIC at %s", row.PCIAddress, pci)
	}
	guest.Eventually(t, pci+" in the device plugin's config", 30*time.Second, func() bool { return guest.Advertised(t, pci) })
	want := []guest.Pool{{Resource: "intel.com/a", Drivers: []string{"e1000e"}, Addresses: []string{pci}}}
	if diff := cmp.Diff(want, guest.DPConfig(t)); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	d.Kill()
	d.Restart()
	guest.RemoveNodeENI(t, "a")
	guest.Eventually(t, pci+" out of the device plugin's config", 30*time.Second, func() bool { return !guest.Advertised(t, pci) })
	l, ok := guest.ByMAC(mac)
	if !ok {
		t.Fatal("no link")
	}
	guest.SetDown(t, l.Attrs().Name)
}

func TestVFIO(t *testing.T) {
	guest.Clean(t)
	pci, _ := guest.WaitNIC(t, "02:00:00:00:01:01")
	guest.BindVFIO(t, pci)
	held := guest.HoldVFIO(t, pci)
	held.Release()
	v := guest.OpenVFIO(t, pci)
	if vendor, device, err := v.IDs(); err != nil || vendor != 0x8086 || device != 0x10d3 {
		t.Errorf("IDs = %04x:%04x, %v, want 8086:10d3", vendor, device, err)
	}
	if err := v.Reset(); err != nil {
		t.Errorf("reset: %v", err)
	}
	// The receive address, RAL0 (Intel 82574 datasheet, 10.2.5.22).
	if got, err := v.Register(0x5400); err != nil || got != 0x00000002 {
		t.Errorf("RAL0 = %#x, %v, want 0x2: the address's first four octets", got, err)
	}
	v.Close()
}
