package v1alpha1

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

func TestDefaulted(t *testing.T) {
	tests := []struct {
		name string
		in   NodeENISpec
		want NodeENISpec
	}{
		{
			name: "nothing given",
			want: NodeENISpec{DeviceIndex: 1, DeleteOnTermination: new(true), DPDKDriver: "vfio-pci"},
		},
		{
			name: "no NodeENI means the primary ENI",
			in:   NodeENISpec{DeviceIndex: -3},
			want: NodeENISpec{DeviceIndex: 1, DeleteOnTermination: new(true), DPDKDriver: "vfio-pci"},
		},
		{
			name: "what is given stays",
			in:   NodeENISpec{DeviceIndex: 4, DeleteOnTermination: new(false), DPDKDriver: "igb_uio", MTU: 9001},
			want: NodeENISpec{DeviceIndex: 4, DeleteOnTermination: new(false), DPDKDriver: "igb_uio", MTU: 9001},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := NodeENI{Spec: tt.in}
			got := in.Defaulted()
			if diff := cmp.Diff(tt.want, got.Spec); diff != "" {
				t.Errorf("Defaulted (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.in, in.Spec); diff != "" {
				t.Errorf("Defaulted changed its receiver (-before +after):\n%s", diff)
			}
		})
	}
}

func TestCaseAndResourceName(t *testing.T) {
	tests := []struct {
		name     string
		spec     NodeENISpec
		want     Case
		resource device.ResourceName
		invalid  bool
	}{
		{name: "plain", want: Case1Kernel},
		{name: "a driver alone changes nothing", spec: NodeENISpec{DPDKDriver: "vfio-pci"}, want: Case1Kernel},
		{name: "resource name", spec: NodeENISpec{DPDKResourceName: "intel.com/sriov_kernel_1"}, want: Case2SRIOV, resource: "intel.com/sriov_kernel_1"},
		{name: "PCI address", spec: NodeENISpec{DPDKPCIAddress: "0000:00:07.0"}, want: Case2SRIOV, resource: "intel.com/sriov_net"},
		{name: "invalid PCI address", spec: NodeENISpec{DPDKPCIAddress: "7"}, want: Case2SRIOV, resource: "intel.com/sriov_net"},
		{name: "hyphen", spec: NodeENISpec{DPDKResourceName: "intel.com/eni-a"}, want: Case2SRIOV, resource: "intel.com/eni-a"},
		{name: "invalid resource name", spec: NodeENISpec{DPDKResourceName: "intel.com/has.dot"}, want: Case2SRIOV, invalid: true},
		{name: "DPDK", spec: NodeENISpec{EnableDPDK: true}, want: Case3DPDK, resource: "intel.com/sriov_net"},
		{name: "DPDK with a name", spec: NodeENISpec{EnableDPDK: true, DPDKResourceName: "example.com/fast"}, want: Case3DPDK, resource: "example.com/fast"},
		{name: "DPDK without a prefix", spec: NodeENISpec{EnableDPDK: true, DPDKResourceName: "fast"}, want: Case3DPDK, invalid: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.spec.Case(); got != tt.want {
				t.Errorf("Case = %v, want %v", got, tt.want)
			}
			got, err := tt.spec.ResourceName()
			if got != tt.resource || errors.Is(err, device.ErrInvalid) != tt.invalid || (err != nil) != tt.invalid {
				t.Errorf("ResourceName = %q, %v; want %q, invalid: %v", got, err, tt.resource, tt.invalid)
			}
			if tt.invalid && !strings.Contains(err.Error(), "spec.dpdkResourceName") {
				t.Errorf("error %q does not name the field", err)
			}
		})
	}
}

func TestCaseString(t *testing.T) {
	got := []string{Case1Kernel.String(), Case2SRIOV.String(), Case3DPDK.String(), Case(0).String()}
	if diff := cmp.Diff([]string{"kernel", "sriov", "dpdk", "Case(0)"}, got); diff != "" {
		t.Errorf("String (-want +got):\n%s", diff)
	}
}

func TestAllowedNamespaces(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := []struct {
		name   string
		value  string
		want   []string
		faulty []string // values that the error must name
	}{
		{name: "one", value: "blue", want: []string{"blue"}},
		{name: "commas, blanks and lines", value: " red,blue\t,\n green ,, blue\r\n", want: []string{"blue", "green", "red"}},
		{name: "63 octets", value: long, want: []string{long}},
		{name: "empty", value: "", want: []string{}, faulty: []string{`""`}},
		{name: "only separators", value: " , ", want: []string{}, faulty: []string{`" , "`}},
		{name: "64 octets", value: long + "a", want: []string{}, faulty: []string{long + "a"}},
		{name: "a wildcard is no name", value: "*", want: []string{}, faulty: []string{`"*"`}},
		{name: "some are valid", value: "Red, -x, blue, y-, a.b", want: []string{"blue"}, faulty: []string{`"Red"`, `"-x"`, `"y-"`, `"a.b"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var o NodeENI
			o.Annotations = map[string]string{AnnotationAllowedNamespaces: tt.value}
			got, err := o.AllowedNamespaces()
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("AllowedNamespaces (-want +got):\n%s", diff)
			}
			if (err != nil) != (tt.faulty != nil) || err != nil && !errors.Is(err, device.ErrInvalid) {
				t.Fatalf("error = %v, want one about %q", err, tt.faulty)
			}
			for _, f := range tt.faulty {
				if !strings.Contains(err.Error(), f) {
					t.Errorf("error %q does not name %s", err, f)
				}
			}
		})
	}

	t.Run("no annotation allows all", func(t *testing.T) {
		got, err := NodeENI{}.AllowedNamespaces()
		if got != nil || err != nil {
			t.Errorf("AllowedNamespaces = %q, %v; want nil, nil", got, err)
		}
	})
}

func FuzzAllowedNamespaces(f *testing.F) {
	f.Add("blue, green")
	f.Add(",")
	f.Add("A\n-")
	f.Fuzz(func(t *testing.T, value string) {
		var o NodeENI
		o.Annotations = map[string]string{AnnotationAllowedNamespaces: value}
		got, err := o.AllowedNamespaces()
		if got == nil {
			t.Fatalf("AllowedNamespaces(%q) = nil, which allows every namespace", value)
		}
		if len(got) == 0 && err == nil {
			t.Errorf("AllowedNamespaces(%q) allows nobody and does not say why", value)
		}
		o.Annotations[AnnotationAllowedNamespaces] = strings.Join(got, ",")
		again, err := o.AllowedNamespaces()
		if len(got) > 0 && err != nil {
			t.Errorf("AllowedNamespaces does not accept its own result %q: %v", got, err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("read again (-first +second):\n%s", diff)
		}
	})
}
