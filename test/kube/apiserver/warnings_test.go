package apiserver

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func warned(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	cluster.Eventually(t, "the policy in force", settleTimeout, func() error {
		if len(warnings(t, c, v1alpha1.NodeENI{})) == 0 {
			return errors.New("a NodeENI without a subnet is not warned of")
		}
		return nil
	})
}

const prefix = "Validation failed for ValidatingAdmissionPolicy 'nodeeni-warnings.networking.k8s.aws' with binding 'nodeeni-warnings.networking.k8s.aws': "

// warnings returns the client's warnings when it creates this NodeENI, which is accepted nevertheless.
func warnings(t *testing.T, c *cluster.Cluster, o v1alpha1.NodeENI) []string {
	t.Helper()
	o.APIVersion, o.Kind, o.Name = v1alpha1.APIVersion, v1alpha1.Kind, "tried"
	if o.Spec.NodeSelector == nil {
		o.Spec.NodeSelector = map[string]string{}
	}
	body, err := json.Marshal(o)
	cluster.Must(t, err)
	return warningsOf(t, tryNodeENI(t, c, string(body)), string(body))
}

func warningsOf(t *testing.T, a answer, body string) []string {
	t.Helper()
	if a.Code != 201 {
		t.Fatalf("%s is not accepted: %d %s", body, a.Code, a.Message)
	}
	var out []string
	for _, w := range a.Warnings {
		message, ok := strings.CutPrefix(w, prefix)
		if !ok {
			t.Errorf("%s: warning %q is not of the policy", body, w)
		}
		out = append(out, message)
	}
	return out
}

const subnet = "subnet-0a1b2c3d"

// Each warning names the field, the value and the remedy, and the object is accepted.
func TestWarningsOfWhatIsNotActedOn(t *testing.T) {
	c := cluster.Start(t)
	warned(t, c)
	tests := []struct {
		name string
		spec v1alpha1.NodeENISpec
		want []string
	}{
		{name: "nothing wrong", spec: v1alpha1.NodeENISpec{SubnetID: subnet, DeviceIndex: 2, MTU: 9001, EnableDPDK: true, DPDKDriver: "vfio-pci",
			DPDKResourceName: "intel.com/fast", DPDKPCIAddress: "0000:00:07.0"}},
		{name: "a hyphen in the resource", spec: v1alpha1.NodeENISpec{SubnetID: subnet, DPDKResourceName: "intel.com/eni-a"}},
		{name: "subnet by name", spec: v1alpha1.NodeENISpec{SubnetNames: []string{"a"}}},
		{name: "a driver without DPDK means nothing", spec: v1alpha1.NodeENISpec{SubnetID: subnet, DPDKDriver: "ena"}},
		{name: "no subnet", want: []string{
			"spec has no subnet, so that no ENI can be made or found; give spec.subnetID, spec.subnetIDs, spec.subnetName or spec.subnetNames"}},
		{name: "all at once", spec: v1alpha1.NodeENISpec{
			SubnetID: "a", SubnetIDs: []string{subnet, "b", ""}, DeviceIndex: -1, MTU: 9217, EnableDPDK: true, DPDKDriver: "ena", DPDKResourceName: "fast",
			DPDKPCIAddress: "07.0"},
			want: []string{
				`annotation networking.k8s.aws/allowed-namespaces "A" has an entry that is no namespace's name, or none at all; ` +
					`list names separated by commas, or remove the annotation to allow all`,
				`spec.deviceIndex -1 means 1, since index 0 is the primary ENI; give 1 or more, or leave it out`,
				`spec.dpdkDriver "ena" is not a userspace driver; give vfio-pci, uio_pci_generic or igb_uio, or leave it out for vfio-pci`,
				`spec.dpdkPCIAddress "07.0" is not a full PCI address; write it as domain:bus:device.function, such as 0000:00:07.0, ` +
					`or leave it out, since it is discovered`,
				`spec.dpdkResourceName "fast" cannot be advertised; give prefix/name of at most 68 characters, with letters, digits, underscores and hyphens in the name ` +
					`and a prefix that Kubernetes does not keep for itself, such as intel.com/sriov_net`,
				`spec.mtu 9217 is not an MTU; give 1 to 9216 octets, or leave it out to keep the link's own`,
				`spec.subnetID "a" is not a subnet id; give subnet- and 8 or 17 hexadecimal digits`,
				`spec.subnetIDs has "b", "", not a subnet id; give subnet- and 8 or 17 hexadecimal digits`,
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := v1alpha1.NodeENI{Spec: tt.spec}
			if len(tt.want) > 1 {
				o.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: "A"}
			}
			got := warnings(t, c, o)
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("no spec", func(t *testing.T) {
		if got := warningsOf(t, tryNodeENI(t, c, nodeENI(``)), "no spec"); len(got) != 1 || !strings.HasPrefix(got[0], "spec has no subnet") {
			t.Errorf("warnings %q", got)
		}
	})
	t.Run("index 0", func(t *testing.T) {
		body := nodeENI(`,"spec":{"nodeSelector":{},"subnetID":"` + subnet + `","deviceIndex":0}`)
		if got := warningsOf(t, tryNodeENI(t, c, body), body); len(got) != 1 || !strings.HasPrefix(got[0], "spec.deviceIndex 0 means 1") {
			t.Errorf("warnings %q", got)
		}
	})
}

func TestWarningsAgreeWithTheDaemon(t *testing.T) {
	c := cluster.Start(t)
	warned(t, c)
	long := strings.Repeat("a", 63)
	fields := []struct {
		name   string
		values []string
		set    func(o *v1alpha1.NodeENI, v string)
		valid  func(v string) bool
	}{
		{
			name: "dpdkResourceName",
			values: []string{"intel.com/sriov_net", "intel.com/has-hyphen", "intel/a", "Intel.com/a", "intel.com/", "/a", "a", "a/b/c", "intel.com/_a",
				"intel.com/a_", "intel.com/A1_b", "-a.b/c", "a-.b/c", "a..b/c", ".a/b", "a./b", "requests.a/b", "requests/b", "kubernetes.io/a", "x.kubernetes.io/a",
				"notkubernetes.io/a", "kubernetes.io.x/a", "a.b/kubernetes_io", "a.b/" + long, "a.b/" + long + "a", "abcd/" + long, "abcde/" + long, "intel.com/a\n",
				"intel.com/ä"},
			set:   func(o *v1alpha1.NodeENI, v string) { o.Spec.DPDKResourceName = v },
			valid: func(v string) bool { _, err := device.ParseResourceName(v); return err == nil },
		},
		{
			name: "dpdkPCIAddress",
			values: []string{"0000:00:07.0", "00:07.0", "0000:00:07", "0000:00:07.8", "0000:00:20.0", "0000:AB:1f.7", "000:00:07.0", "00000000:00:07.0",
				"000000000:00:07.0", "0000:0:07.0", "0000:00:07.0 ", "g000:00:07.0", "0000-00-07.0"},
			set:   func(o *v1alpha1.NodeENI, v string) { o.Spec.DPDKPCIAddress = v },
			valid: func(v string) bool { _, err := device.ParsePCIAddress(v); return err == nil },
		},
		{
			name: "subnetIDs",
			values: []string{subnet, "subnet-0a1b2c3d4e5f60718", "", "subnet-", "subnet-0A1B2C3D", "subnet-0a1b2c3", "subnet-0a1b2c3d4", "sub-0a1b2c3d",
				"subnet-0a1b2c3d\n", "subnet-0a1b2c3g"},
			set:   func(o *v1alpha1.NodeENI, v string) { o.Spec.SubnetIDs = []string{v} },
			valid: func(v string) bool { _, err := device.ParseSubnetID(v); return err == nil },
		},
		{
			name:   "dpdkDriver",
			values: []string{"vfio-pci", "uio_pci_generic", "igb_uio", "ena", "vfio", "VFIO-PCI", "mlx5_core", "vfio-pci "},
			set:    func(o *v1alpha1.NodeENI, v string) { o.Spec.EnableDPDK, o.Spec.DPDKDriver = true, v },
			valid:  func(v string) bool { return sysfs.PCIFunction{Driver: v}.UserspaceDriver() },
		},
		{
			name:   "allowed-namespaces",
			values: []string{"a", "a,b", " a ,\t\n,b\r\n", "", ",", "A", "*", "a.b", "-a", "a-", "a,B", long, long + "a", "a;b", "0"},
			set: func(o *v1alpha1.NodeENI, v string) {
				o.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: v}
			},
			valid: func(v string) bool {
				o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationAllowedNamespaces: v}}}
				_, err := o.AllowedNamespaces()
				return err == nil
			},
		},
	}
	for _, f := range fields {
		t.Run(f.name, func(t *testing.T) {
			for _, v := range f.values {
				o := v1alpha1.NodeENI{Spec: v1alpha1.NodeENISpec{SubnetName: "a", DeviceIndex: 1}}
				f.set(&o, v)
				got := warnings(t, c, o)
				if valid := f.valid(v); valid != (len(got) == 0) || len(got) > 1 {
					t.Errorf("%q: valid %v, warnings %q", v, valid, got)
				}
				if len(got) == 1 && !strings.Contains(got[0], f.name) {
					t.Errorf("%q: warning %q does not name the field", v, got[0])
				}
			}
		})
	}
}
