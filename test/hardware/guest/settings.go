package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

// HostNetns is the path of the machine's own netns.
const HostNetns = "/proc/1/ns/net"

// DeclareSettings writes an inventory with one device and its settings until the test's end, and returns the settings.
func DeclareSettings(t *testing.T, pci string) nodestate.Settings {
	t.Helper()
	name := Netdev(pci)
	l, ok := ByName(name)
	if !ok {
		t.Fatalf("no link of %s in the host", pci)
	}
	h, err := link.Open()
	Must(t, err)
	defer h.Close()
	settings, err := h.Ethtool(name)
	Must(t, err)
	t.Logf("settings of %s: %v", pci, settings)
	boot, err := nodestate.BootID()
	Must(t, err)
	Must(t, os.MkdirAll(filepath.Dir(nodestate.DefaultInventoryPath), 0o700))
	err = nodestate.WriteInventory(nodestate.DefaultInventoryPath, nodestate.Inventory{NodeName: "node", BootID: boot, Devices: []nodestate.Device{{
		ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "a", MAC: device.MAC(l.Attrs().HardwareAddr.String()), PCIAddress: device.PCIAddress(pci),
		InterfaceName: name, Driver: Driver(pci), Phase: nodestate.PhaseReady, Ethtool: settings,
	}}})
	Must(t, err)
	t.Cleanup(func() {
		if err := os.Remove(nodestate.DefaultInventoryPath); err != nil {
			t.Error(err)
		}
	})
	return settings
}

// Describe describes an interface of the netns at path.
func Describe(t *testing.T, netns, name string) (out adversary.Description) {
	t.Helper()
	In(t, netns, func() {
		l, ok := ByName(name)
		if !ok {
			t.Errorf("no %s in %s", name, netns)
			return
		}
		var err error
		if out, err = adversary.Describe(l.Attrs().Index); err != nil {
			t.Error(err)
		}
	})
	return out
}

// StartIMDS starts a metadata service with the machine's primary NIC and one more ENI, whose subnet it shares.
func StartIMDS(t *testing.T, eni fakeimds.ENI) *fakeimds.Running {
	t.Helper()
	return fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{
		InstanceID: InstanceID,
		ENIs: []fakeimds.ENI{
			{
				ID: "eni-0123456789abcde0f", MAC: "02:00:00:00:00:01", Primary: true,
				SubnetID: eni.SubnetID, SubnetIPv4CIDR: "10.0.0.0/24", IPv4s: []string{"10.0.0.5"},
			},
			eni,
		},
	}})
}
