package binding

import (
	"bytes"
	"embed"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// samples are the public controller's.
//
//go:embed testdata/*.yaml
var samples embed.FS

func sample(t *testing.T, name string) []byte {
	t.Helper()
	data, err := samples.ReadFile("testdata/" + name + ".yaml")
	guest.Must(t, err)
	return data
}

// attach writes the sample's NodeENIs as the public controller leaves them, each with the ENI of its device index.
func attach(t *testing.T, name string, enis ...fakeimds.ENI) {
	t.Helper()
	for _, doc := range bytes.Split(sample(t, name), []byte("\n---\n")) {
		var o v1alpha1.NodeENI
		guest.Must(t, yaml.Unmarshal(doc, &o))
		for _, e := range enis {
			if o.Kind == v1alpha1.Kind && o.Spec.DeviceIndex == e.DeviceIndex {
				guest.WriteNodeENI(t, o.Name, o.Spec, guest.Attached(e))
			}
		}
	}
}

func publicENIs(mac2, mac3 string) (index2, index3 fakeimds.ENI) {
	index2, index3 = newENI(mac2, 2), newENI(mac3, 3)
	index2.SubnetID = "subnet-08c2ddc07218f1105"
	return index2, index3
}

// The samples on hardware with the devices in their places.
func TestSamples(t *testing.T) {
	guest.Clean(t)
	seven, eight := prepare(t, mac7, "ens7", true), prepare(t, mac8, "ens8", false)
	one := prepare(t, macA, "ens-a", false)
	eni7, eni8 := publicENIs(mac7, mac8)
	jumbo := newENI(macA, 1)
	jumbo.SubnetID = "subnet-0123456789abcdef0"
	start(t, nil, eni7, eni8, jumbo)

	// The unchanged file: subnetIDs are in the metadata, subnet names are not.
	guest.WriteManifest(t, "sample", sample(t, "sriov-kernel"))
	guest.WriteManifest(t, "kernel", sample(t, "kernel"))
	guest.AwaitPhase(t, eni7.ID, nodestate.PhaseReady, soon)
	problem(t, "SubnetNameUnknown", "subnetNames", "status.attachments")
	problem(t, "OtherKind", "Pod")
	wantConfig(t, pool("intel.com/sriov_kernel_1", "e1000e", seven))
	guest.AwaitPhase(t, jumbo.ID, nodestate.PhaseReady, soon)
	mtu := func(s state, mtu int) state { s.MTU = mtu; return s }
	one.becomes(t, mtu(one.before.up(), 9000))
	guest.RemoveNodeENI(t, "sample")
	guest.RemoveNodeENI(t, "kernel")
	attach(t, "sriov-kernel", eni7, eni8)
	wantConfig(t, pool("intel.com/sriov_kernel_1", "e1000e", seven), pool("intel.com/sriov_kernel_2", "e1000e", eight))
	seven.becomes(t, mtu(seven.before, 9001))
	eight.becomes(t, mtu(eight.before.up(), 9001))

	guest.RemoveNodeENI(t, "test-sriov-nondpdk-1")
	guest.RemoveNodeENI(t, "test-sriov-nondpdk-2")
	attach(t, "sriov-dpdk", eni7, eni8)
	seven.bound(t, eni7, "vfio-pci")
	eight.bound(t, eni8, "vfio-pci")
	wantConfig(t, pool("intel.com/sriov_test_1", "vfio-pci", seven), pool("intel.com/sriov_test_2", "vfio-pci", eight))
	wantUsable(t, seven.pci)
	wantUsable(t, eight.pci)
	guest.RemoveNodeENI(t, "test-sriov-integration-1")
	guest.RemoveNodeENI(t, "test-sriov-integration-2")
	seven.becomes(t, mtu(seven.before, 9001)) // as case 2 had left it
	eight.becomes(t, mtu(eight.before.up(), 9001))
	seven.withdrawn(t, eni7)
	eight.withdrawn(t, eni8)
}

// The samples with the devices elsewhere: a wrong address is a problem, and neither device is touched.
func TestSamplesElsewhere(t *testing.T) {
	guest.Clean(t)
	seven, eight := prepare(t, mac7, "ens7", true), prepare(t, mac8, "ens8", false)
	other := prepare(t, macA, "ens-a", false)
	for _, c := range []struct {
		name, mac2, mac3 string
		wrong, there     nic
	}{
		{name: "another slot", mac2: macA, mac3: mac8, wrong: other, there: seven},
		{name: "swapped", mac2: mac8, mac3: mac7, wrong: eight, there: seven},
	} {
		t.Run(c.name, func(t *testing.T) {
			eni2, eni3 := publicENIs(c.mac2, c.mac3)
			start(t, nil, eni2, eni3)
			for _, name := range []string{"sriov-kernel", "sriov-dpdk"} {
				attach(t, name, eni2)
				problem(t, "PCIAddressMismatch", "0000:00:07.0", c.wrong.pci)
				if got := guest.Row(t, eni2.ID).Phase; got != nodestate.PhasePending {
					t.Errorf("%s: phase %q, want pending", name, got)
				}
				c.wrong.untouched(t)
				c.there.untouched(t)
				if guest.Advertised(t, c.there.pci) || guest.Advertised(t, c.wrong.pci) {
					t.Errorf("%s: config %+v has a device in doubt", name, guest.DPConfig(t))
				}
				guest.RemoveNodeENI(t, map[string]string{"sriov-kernel": "test-sriov-nondpdk-1", "sriov-dpdk": "test-sriov-integration-1"}[name])
				noProblem(t, "PCIAddressMismatch")
			}
		})
	}
}
