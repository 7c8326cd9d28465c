package queues

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// TestSettingsByTheDaemon: the daemon reads an idle device's settings, ADD records them, and they return after the pod.
func TestSettingsByTheDaemon(t *testing.T) {
	guest.Clean(t)
	const mac = "02:00:00:00:01:00"
	const subnet = "subnet-0a1b2c3d4e5f60001"
	pci, name := guest.WaitNIC(t, mac)
	eni := fakeimds.ENI{ID: "eni-0a1b2c3d4e5f60001", MAC: mac, DeviceIndex: 1, SubnetID: subnet, SubnetIPv4CIDR: "10.0.2.0/24", IPv4s: []string{"10.0.2.15"}}
	imds := guest.StartIMDS(t, eni)
	guest.WriteNodeENI(t, "a", v1alpha1.NodeENISpec{SubnetID: subnet, DeviceIndex: 1}, guest.Attached(eni))
	t.Cleanup(func() { guest.SetDown(t, guest.Netdev(pci)) })
	guest.StartDaemon(t, guest.DaemonOptions{IMDS: imds.URL})
	guest.AwaitPhase(t, eni.ID, nodestate.PhaseReady, 30*time.Second)
	guest.Eventually(t, "the row has the device's settings", 30*time.Second, func() bool { return guest.Row(t, eni.ID).Ethtool["rings"] != "" })
	before := guest.Describe(t, guest.HostNetns, name)
	for _, gone := range []bool{false, true} {
		data, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "wire", "type": "multi-eni", "select": map[string]any{"nodeENI": "a"}})
		guest.Must(t, err)
		pod := guest.CNICall{ContainerID: "settings", Netns: guest.NewNetns(t, "settings"), IfName: "net1", Conf: string(data)}
		guest.MustAdd(t, pod)
		p := adversary.New(pod.Netns, indexIn(t, pod.Netns), 1)
		for _, act := range []string{"ethtool rings", "ethtool coalesce", "ethtool features", "generic XDP", "MTU"} {
			do(t, p, act)
		}
		if gone {
			guest.DeleteNetns(t, pod.Netns)
		}
		guest.MustDel(t, pod)
		if !gone {
			guest.DeleteNetns(t, pod.Netns)
		}
		guest.AwaitRestored(t, pci, 30*time.Second)
		guest.Eventually(t, "the device is in the host", 30*time.Second, func() bool { return guest.Netdev(pci) == name })
		if diff := cmp.Diff(before, guest.Describe(t, guest.HostNetns, name)); diff != "" {
			t.Errorf("netns gone %v (-before +after):\n%s", gone, diff)
		}
	}
	guest.RemoveNodeENI(t, "a")
}
