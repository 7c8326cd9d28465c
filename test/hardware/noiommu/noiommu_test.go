// Package noiommu records the machine without an IOMMU, like most EC2 instances. Debian's kernel lacks
// vfio's no-IOMMU mode (CONFIG_VFIO_NOIOMMU), so no device can be bound there. Handwritten tests of
// daemon/internal/driver cover that mode's sysfs.
package noiommu

import (
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
	"github.com/multi-eni/multi-eni-cni/test/hardware/trees"
)

const macENI = "02:00:00:00:01:00"

func TestMain(m *testing.M) {
	machine.Main(m, machine.Spec{NoIOMMU: true, NICs: []machine.NIC{
		{ID: "primary", MAC: "02:00:00:00:00:01", Address: "05.0"},
		{ID: "eni", MAC: macENI, Slot: "slot0"},
	}})
}

func TestTree(t *testing.T) {
	guest.WaitNIC(t, macENI)
	trees.Check(t, "noiommu")
	const mode = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
	if _, err := os.Stat(mode); err == nil {
		t.Errorf("this kernel has %s: record a device that is bound with it", mode)
	}
}
