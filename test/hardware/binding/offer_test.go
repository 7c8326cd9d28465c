package binding

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// offer starts a kubelet, and a daemon that offers it the devices.
func offer(t *testing.T, enis ...fakeimds.ENI) (*node, *guest.Kubelet) {
	t.Helper()
	k := guest.StartKubelet(t)
	return start(t, []string{"--offer=deviceplugin"}, enis...), k
}

// A DPDK application gets the nodes of its own device by the daemon's answer, and runs with no others of the node.
func TestOfferedDPDKApplication(t *testing.T) {
	guest.Clean(t)
	b, c := prepare(t, macB, "ens-b", true), prepare(t, macC, "ens-c", true)
	peer := newPeer(t, "10.0.3.1/24")
	_, k := offer(t, eniB(), eniC())
	other := dpdk(eniB(), "vfio-pci")
	other.DPDKResourceName = resourceSRIOV
	guest.WriteNodeENI(t, "b", other)
	guest.WriteNodeENI(t, "c", dpdk(eniC(), "vfio-pci"))
	k.AwaitHealthy(soon, resourceSRIOV, b.pci)
	k.AwaitHealthy(soon, resourceDPDK, c.pci)
	if pools := guest.DPConfig(t); len(pools) > 0 && (guest.Advertised(t, b.pci) || guest.Advertised(t, c.pci)) {
		t.Errorf("the device plugin's config has the devices, too: %v", pools)
	}
	answer := admit(t, k, "pod", resourceDPDK)
	guest.WantAnswer(t, answer, "vfio-pci with an IOMMU group", resourceDPDK, c.pci)
	pod := newPod(t, "pod", fmt.Sprintf(`"deviceID":%q`, c.pci), "10.0.3.10/24")
	guest.MustAdd(t, pod)

	container := guest.NewContainer(t, "pod", answer)
	wantReachable(t, container, map[string]bool{
		"/dev/vfio/vfio": true, "/dev/vfio/" + group(t, c.pci): true, "/dev/vfio/" + group(t, b.pci): false, "/dev/mem": false,
	})
	app := runTestpmd(t, pod.Netns, container.Command("dpdk-testpmd", testpmdArgs(c.pci)...))
	guest.In(t, peer, func() {
		if answered, err := ping("10.0.3.10", 20); answered < 20 {
			t.Errorf("%d answers to 20 pings, %v\n%s", answered, err, app.output())
		}
	})
	guest.RemoveNodeENI(t, "c")
	awaitHealths(t, k, c.pci, deviceapi.Healthy, deviceapi.Unhealthy)
	guest.AwaitPhase(t, eniC().ID, nodestate.PhaseDraining, soon)
	if _, err := k.Admit("late", resourceDPDK); err == nil {
		t.Error("a pod gets a device that drains")
	}
	app.quit()
	guest.MustDel(t, pod)
	k.EndPod("pod")
	c.restored(t)
	awaitHealths(t, k, c.pci, deviceapi.Healthy, deviceapi.Unhealthy, guest.Unlisted)
	guest.Eventually(t, "no device-info file of the device that is gone", soon, func() bool {
		_, err := os.Stat(guest.DeviceInfo(resourceDPDK, c.pci))
		return errors.Is(err, fs.ErrNotExist)
	})
	awaitHealths(t, k, b.pci, deviceapi.Healthy)
	guest.RemoveNodeENI(t, "b")
	b.restored(t)
}

// A kernel device is offered like the SR-IOV device plugin does. It is unhealthy while its driver changes, and after.
func TestOfferedDriverChanges(t *testing.T) {
	guest.Clean(t)
	a, b := prepare(t, macA, "ens-a", true), prepare(t, macB, "ens-b", true)
	_, k := offer(t, eniA(), eniB())
	guest.WriteNodeENI(t, "a", sriov(eniA()))
	other := sriov(eniB())
	other.DPDKResourceName = resourceDPDK
	guest.WriteNodeENI(t, "b", other)
	k.AwaitHealthy(soon, resourceSRIOV, a.pci)
	k.AwaitHealthy(soon, resourceDPDK, b.pci)
	guest.WantAnswer(t, admit(t, k, "kernel", resourceSRIOV), "an ena device", resourceSRIOV, a.pci)
	k.EndPod("kernel")

	changed := dpdk(eniA(), "vfio-pci")
	changed.DPDKResourceName = resourceSRIOV
	guest.WriteNodeENI(t, "a", changed)
	awaitHealths(t, k, a.pci, deviceapi.Healthy, deviceapi.Unhealthy, deviceapi.Healthy)
	if driver := guest.Driver(a.pci); driver != "vfio-pci" {
		t.Errorf("%s is healthy with the driver %q", a.pci, driver)
	}
	guest.WantAnswer(t, admit(t, k, "vfio", resourceSRIOV), "vfio-pci with an IOMMU group", resourceSRIOV, a.pci)
	k.EndPod("vfio")

	guest.Bind(t, a.pci, "e1000e") // somebody else does
	if _, err := k.Admit("foreign", resourceSRIOV); err == nil {
		t.Error("a pod gets a device that has another driver than it is offered with")
	}
	awaitHealths(t, k, a.pci, deviceapi.Healthy, deviceapi.Unhealthy, deviceapi.Healthy, deviceapi.Unhealthy)
	awaitHealths(t, k, b.pci, deviceapi.Healthy)
	for _, name := range []string{"a", "b"} {
		guest.RemoveNodeENI(t, name)
	}
	for _, e := range []fakeimds.ENI{eniA(), eniB()} {
		guest.Eventually(t, e.ID+" out of the inventory", soon, func() bool { return guest.Row(t, e.ID).Phase == "" })
	}
	a.restored(t)
	b.restored(t)
}

// A device that is pulled out is unhealthy at once. The lists of all others stay as they are.
func TestOfferedPulledOut(t *testing.T) {
	guest.Clean(t)
	a, b, c := prepare(t, macA, "ens-a", true), prepare(t, macB, "ens-b", true), prepare(t, macC, "ens-c", true)
	n, k := offer(t, eniA(), eniB(), eniC())
	guest.WriteNodeENI(t, "a", sriov(eniA()))
	guest.WriteNodeENI(t, "b", sriov(eniB()))
	guest.WriteNodeENI(t, "c", dpdk(eniC(), "vfio-pci"))
	k.AwaitHealthy(soon, resourceSRIOV, a.pci, b.pci)
	k.AwaitHealthy(soon, resourceDPDK, c.pci)

	pulled := time.Now()
	guest.Detach(t, "a")
	left := time.Now()
	awaitHealths(t, k, a.pci, deviceapi.Healthy, deviceapi.Unhealthy)
	at := k.Healths(a.pci)[1].At
	t.Logf("unhealthy %v after the request to pull it out, and %v after the kernel had released it", at.Sub(pulled).Round(time.Millisecond),
		at.Sub(left).Round(time.Millisecond))
	k.AwaitHealthy(soon, resourceSRIOV, b.pci)
	n.imds.Detach(macA)

	n.imds.Attach(eniA())
	guest.Attach(t, "a", "slot0", macA)
	k.AwaitHealthy(soon, resourceSRIOV, a.pci, b.pci)
	for _, other := range []nic{b, c} {
		awaitHealths(t, k, other.pci, deviceapi.Healthy)
	}
	for _, name := range []string{"a", "b", "c"} {
		guest.RemoveNodeENI(t, name)
	}
	_, was := guest.WaitNIC(t, macA)
	dress(t, a.pci, was, "ens-a", true)
	b.restored(t)
	c.restored(t)
	c.withdrawn(t, eniC())
}

func admit(t *testing.T, k *guest.Kubelet, pod, resource string) *deviceapi.ContainerAllocateResponse {
	t.Helper()
	answer, err := k.Admit(pod, resource)
	if err != nil {
		t.Fatalf("no device of %s for a pod: %v", resource, err)
	}
	return answer
}

// wantReachable opens nodes in a container. One that is not reachable is missing, and cannot be made.
func wantReachable(t *testing.T, c *guest.Container, want map[string]bool) {
	t.Helper()
	got := c.Open(slices.Sorted(maps.Keys(want))...)
	for path, reachable := range want {
		if reachable == (got[path] != "") || !reachable && !strings.Contains(got[path], "operation not permitted") {
			t.Errorf("%s in the container: error %q, want it reachable: %t", path, got[path], reachable)
		}
	}
}

// awaitHealths waits until the kubelet has seen exactly these changes of a device.
func awaitHealths(t *testing.T, k *guest.Kubelet, pci string, want ...string) {
	t.Helper()
	var got []string
	for began := time.Now(); time.Since(began) < soon; time.Sleep(20 * time.Millisecond) {
		got = nil
		for _, h := range k.Healths(pci) {
			got = append(got, h.Is)
		}
		if slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("%s was %q to the kubelet, want %q; the problems are %+v", pci, got, want, guest.Inventory(t).Problems)
}
