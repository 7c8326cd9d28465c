package binding

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const (
	resourceSRIOV = "intel.com/sriov_net_b"
	resourceDPDK  = "intel.com/sriov_dpdk_c"
)

func kernel(e fakeimds.ENI) v1alpha1.NodeENISpec {
	return v1alpha1.NodeENISpec{SubnetID: e.SubnetID, DeviceIndex: e.DeviceIndex}
}

func sriov(e fakeimds.ENI) v1alpha1.NodeENISpec {
	s := kernel(e)
	s.DPDKResourceName = resourceSRIOV
	return s
}

func dpdk(e fakeimds.ENI, driver string) v1alpha1.NodeENISpec {
	s := kernel(e)
	s.EnableDPDK, s.DPDKDriver, s.DPDKResourceName = true, driver, resourceDPDK
	return s
}

// The three cases of NodeENIs end to end: phases, config, pods, and back.
func TestThreeCases(t *testing.T) {
	guest.Clean(t)
	a, b, c := prepare(t, macA, "ens-a", false), prepare(t, macB, "ens-b", false), prepare(t, macC, "ens-c", true)
	start(t, nil, eniA(), eniB(), eniC())
	w := watch(t, eniC().ID, c.pci, "vfio-pci")
	guest.WriteNodeENI(t, "case1", kernel(eniA()))
	guest.WriteNodeENI(t, "case2", sriov(eniB()))
	guest.WriteNodeENI(t, "case3", dpdk(eniC(), "vfio-pci"))
	guest.AwaitPhase(t, eniA().ID, nodestate.PhaseReady, soon)
	guest.AwaitPhase(t, eniB().ID, nodestate.PhaseReady, soon)
	c.bound(t, eniC(), "vfio-pci")
	a.becomes(t, a.before.up())
	b.becomes(t, b.before.up())
	wantConfig(t, pool(resourceDPDK, "vfio-pci", c), pool(resourceSRIOV, "e1000e", b))

	peer := newPeer(t, "10.0.1.1/24", "10.0.2.1/24")
	kernelPod := newPod(t, "kernel", `"select":{"nodeENI":"case1"}`, "10.0.1.10/24")
	sriovPod := newPod(t, "sriov", fmt.Sprintf(`"deviceID":%q`, b.pci), "10.0.2.10/24")
	dpdkPod := newPod(t, "dpdk", fmt.Sprintf(`"deviceID":%q,"runtimeConfig":{"CNIDeviceInfoFile":"/run/dpdk.json"}`, c.pci), "10.0.3.10/24")
	guest.MustAdd(t, kernelPod)
	guest.MustAdd(t, sriovPod)
	r := guest.MustAdd(t, dpdkPod)
	guest.Talk(t, kernelPod.Netns, peer, "10.0.1.10:7000")
	guest.Talk(t, peer, sriovPod.Netns, "10.0.2.1:7000")
	if got := r.Result.IPs[0].Address.String(); got != "10.0.3.10/24" {
		t.Errorf("the DPDK pod has address %s", got)
	}
	wantDeviceInfo(t, "/run/dpdk.json", c.pci)
	wantUsable(t, c.pci)
	second := newPod(t, "second", fmt.Sprintf(`"deviceID":%q`, c.pci), "10.0.3.11/24")
	second.Verb = "ADD"
	guest.WantCode(t, second, 101, "dpdk")

	for _, p := range []guest.CNICall{kernelPod, sriovPod, dpdkPod} {
		guest.MustDel(t, p)
	}
	for _, name := range []string{"case1", "case2", "case3"} {
		guest.RemoveNodeENI(t, name)
	}
	c.restored(t)
	c.withdrawn(t, eniC())
	w.finish()
	want := []nodestate.Phase{nodestate.PhasePending, nodestate.PhaseReady, nodestate.PhaseDraining, ""}
	got := w.phases
	if got[0] == "" { // else the first look came late
		got = got[1:]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("phases of case 3 (-want +got):\n%s", diff)
	}
	wantConfig(t, placeholder())
}

func placeholder() guest.Pool {
	return guest.Pool{Resource: "intel.com/sriov_placeholder", Drivers: []string{"placeholder"}, Addresses: []string{"0000:00:00.0"}}
}

func pool(resource, driver string, n nic) guest.Pool {
	return guest.Pool{Resource: resource, Drivers: []string{driver}, Addresses: []string{n.pci}}
}

func wantConfig(t *testing.T, want ...guest.Pool) {
	t.Helper()
	guest.Eventually(t, fmt.Sprintf("config %+v, which is %+v", want, guest.DPConfig(t)), soon, func() bool { return cmp.Equal(want, guest.DPConfig(t)) })
}

func newPod(t *testing.T, name, device, address string) guest.CNICall {
	t.Helper()
	return guest.CNICall{
		ContainerID: name, Netns: guest.NewNetns(t, name),
		Conf: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"test","type":"multi-eni",%s,"ipam":{"type":"static","addresses":[{"address":%q}]}}`, device, address),
	}
}

func newPeer(t *testing.T, addresses ...string) (netns string) {
	t.Helper()
	pci, name := guest.WaitNIC(t, macPeer)
	pod := guest.CNICall{
		ContainerID: "peer", Netns: guest.NewNetns(t, "peer"),
		Conf: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"peer","type":"multi-eni","deviceID":%q}`, pci),
	}
	guest.MustAdd(t, pod)
	t.Cleanup(func() { guest.MustDel(t, pod) })
	guest.In(t, pod.Netns, func() {
		l, ok := guest.ByName("net1")
		if !ok {
			t.Errorf("no net1 where %s was to go", name)
			return
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err == nil {
				err = netlink.AddrAdd(l, addr)
			}
			try(t, err)
		}
	})
	return pod.Netns
}

func wantDeviceInfo(t *testing.T, path, pci string) {
	t.Helper()
	data, err := os.ReadFile(path)
	guest.Must(t, err)
	var info struct {
		Type string
		PCI  struct {
			Address string `json:"pci-address"`
		}
	}
	if err := json.Unmarshal(data, &info); err != nil || info.Type != "pci" || info.PCI.Address != pci {
		t.Errorf("device info %s: %v, want the address %s", data, err, pci)
	}
}

func wantUsable(t *testing.T, pci string) {
	t.Helper()
	v := guest.OpenVFIO(t, pci)
	defer v.Close()
	vendor, dev, err := v.IDs()
	if err != nil || vendor != 0x8086 {
		t.Errorf("%s by VFIO: %04x:%04x, %v; want Intel's", pci, vendor, dev, err)
	}
	if status, err := v.Register(8); err != nil || status == 0xffffffff { // STATUS
		t.Errorf("%s by VFIO: status register %#x, %v", pci, status, err)
	}
	try(t, v.Reset())
}
