// Package binding shows on real PCI functions that multi-enid binds devices to userspace drivers and returns
// them: NodeENIs, every refusal, every failure, and a DPDK application on a bound device.
//
// An EFA, which the daemon never touches, exists in AWS only: tests of daemon/internal/driver and inventory show
// that it is refused.
package binding

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

// The NICs of the machine, each with its ENI in the metadata.
const (
	macPrimary = "02:00:00:00:00:01"
	mac7       = "02:00:00:00:00:07" // at 0000:00:07.0, as the public samples have it
	mac8       = "02:00:00:00:00:08" // at 0000:00:08.0
	macTwin0   = "02:00:00:00:00:90" // one IOMMU group
	macTwin1   = "02:00:00:00:00:91"
	macA       = "02:00:00:00:01:00"
	macB       = "02:00:00:00:01:01"
	macC       = "02:00:00:00:01:02"
	macPeer    = "02:00:00:00:01:03" // the peer of pods and DPDK applications
	macPF      = "02:00:00:00:02:00"
)

func spec() machine.Spec {
	return machine.Spec{
		DPDK: true,
		NICs: []machine.NIC{
			{ID: "primary", MAC: macPrimary},
			{ID: "seven", MAC: mac7, Address: "07.0"},
			{ID: "eight", MAC: mac8, Address: "08.0"},
			{ID: "twin0", MAC: macTwin0, Group: "twins"},
			{ID: "twin1", MAC: macTwin1, Group: "twins"},
			{ID: "a", MAC: macA, Slot: "slot0"},
			{ID: "b", MAC: macB, Slot: "slot1"},
			{ID: "c", MAC: macC, Slot: "slot2"},
			{ID: "peer", MAC: macPeer},
			{ID: "pf", Model: machine.IGB, MAC: macPF},
		},
	}
}

func TestMain(m *testing.M) { machine.Main(m, spec()) }

func TestMachine(t *testing.T) {
	for mac, want := range map[string]string{mac7: "0000:00:07.0", mac8: "0000:00:08.0"} {
		if pci, _ := guest.WaitNIC(t, mac); pci != want {
			t.Errorf("NIC %s is at %s, want %s", mac, pci, want)
		}
	}
	twin0, _ := guest.WaitNIC(t, macTwin0)
	twin1, _ := guest.WaitNIC(t, macTwin1)
	if a, b := group(t, twin0), group(t, twin1); a != b {
		t.Errorf("the twins are in groups %s and %s, want one", a, b)
	}
}

func group(t *testing.T, pci string) string {
	t.Helper()
	target, err := os.Readlink(guest.Devices + pci + "/iommu_group")
	guest.Must(t, err)
	return filepath.Base(target)
}
