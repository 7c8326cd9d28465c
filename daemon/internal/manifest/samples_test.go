package manifest

import (
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestSamples: conf/nodeenis has one NodeENI for each case, each in a file of its own, without any problem.
func TestSamples(t *testing.T) {
	const folder = "../../../conf/nodeenis"
	snap, err := New(folder).List()
	if err != nil || !snap.Complete || len(snap.Problems) > 0 {
		t.Fatalf("List: complete %t, %v, problems %v; want none", snap.Complete, err, snap.Problems)
	}
	files, err := os.ReadDir(folder)
	must(t, err)
	if len(files) != len(snap.Objects) {
		t.Errorf("%d files declare %d NodeENIs, want one each", len(files), len(snap.Objects))
	}
	type sample struct {
		Name, Case string
		Subnet     device.SubnetID
		Index      int
		Resource   device.ResourceName
	}
	var got []sample
	for _, o := range snap.Objects {
		subnet, err := device.ParseSubnetID(o.Spec.SubnetID)
		if err != nil {
			t.Errorf("%s: %v", o.Name, err)
		}
		resource, err := o.Spec.ResourceName()
		if err != nil {
			t.Errorf("%s: %v", o.Name, err)
		}
		got = append(got, sample{o.Name, o.Spec.Case().String(), subnet, o.Spec.DeviceIndex, resource})
	}
	want := []sample{
		{"dataplane-a", "kernel", "subnet-0a1b2c3d4e5f60001", 1, ""},
		{"dataplane-b", "sriov", "subnet-0a1b2c3d4e5f60002", 2, "intel.com/sriov_net_b"},
		{"dpdk-c", "dpdk", "subnet-0a1b2c3d4e5f60003", 3, "intel.com/sriov_dpdk_c"},
	}
	same(t, "samples", want, got)
}
