package driver

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// TestCheckRecorded judges a real machine as the other tests judge trees written by hand.
func TestCheckRecorded(t *testing.T) {
	const (
		eni  = "0000:01:00.0"
		disk = "0000:00:1f.2"
		pf   = "0000:09:00.0"
		vf   = "0000:09:10.2"
	)
	for _, tt := range []struct {
		tree   string
		addr   device.PCIAddress
		policy Policy
		reason string // "" for no obstacle
	}{
		{tree: "kernel", addr: eni},
		{tree: "kernel", addr: pf},
		{tree: "kernel", addr: disk, reason: "NotBindable"},
		{tree: "vfs", addr: pf, reason: "PFInUse"},
		{tree: "vfs", addr: vf},
		{tree: "vfio", addr: eni},
		{tree: "vfio", addr: vf},
		{tree: "pod", addr: vf},
		{tree: "noiommu", addr: eni, reason: "NoIOMMU"},
		{tree: "noiommu", addr: eni, policy: Policy{AllowUnsafeNoIOMMU: true}, reason: "NoIOMMU"}, // a kernel without that mode
	} {
		t.Run(tt.tree+"/"+tt.addr.String(), func(t *testing.T) {
			f := sysfs.NewFS(sysfstree.Unpack(t, tt.tree))
			facts, err := ReadFacts(f, t.TempDir())
			must(t, err)
			addrs, err := f.PCIAddresses()
			must(t, err)
			all := map[device.PCIAddress]sysfs.PCIFunction{}
			for _, a := range addrs {
				if all[a], err = f.PCI(a); err != nil {
					t.Fatal(err)
				}
			}
			own := func(a device.PCIAddress) bool { return a == tt.addr }
			o := Check(all[tt.addr], vfioPCI, all, own, facts, tt.policy)
			if o == nil {
				o = &Obstacle{}
			}
			if string(o.Reason) != tt.reason {
				t.Errorf("Check finds %q (%s), want %q", o.Reason, o.Message, tt.reason)
			}
		})
	}
}
