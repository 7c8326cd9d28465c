package inventory

import (
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestStatusDeviceIndex(t *testing.T) {
	for given, want := range map[int]int{-1: -1, 0: -1, 1: 1, 15: 15, maxDeviceIndex: maxDeviceIndex, maxDeviceIndex + 1: -1} {
		w := newWorld(1)
		w.unknown.enis = true // else IMDS says it
		w.declare("a", 1, attached(node, 1), func(o *v1alpha1.NodeENI) { o.Status.Attachments[0].DeviceIndex = given })
		if d := w.join().Devices[0]; d.DeviceIndex != want || d.NetworkCard != -1 {
			t.Errorf("index %d of the status: device index %d and network card %d, want %d and -1", given, d.DeviceIndex, d.NetworkCard, want)
		}
	}
}

// While IMDS does not list an ENI, or not its index and card, the row keeps its numbers.
func TestIndexesAreRemembered(t *testing.T) {
	w := newWorld(3)
	w.declare("a", 1, attached(node, 3), func(o *v1alpha1.NodeENI) { o.Status.Attachments[0].DeviceIndex = 0 })
	e := w.enis[3]
	e.NetworkCard = 1
	w.enis[3] = e
	check := func(when string) {
		t.Helper()
		if d := w.join().Devices[0]; d.DeviceIndex != 3 || d.NetworkCard != 1 || d.SubnetID != subnet(3) {
			t.Errorf("%s: device index %d, network card %d, %s", when, d.DeviceIndex, d.NetworkCard, d.SubnetID)
		}
	}
	check("listed")
	e.DeviceIndex, e.NetworkCard = 0, -1
	w.enis[3] = e
	check("without index and card")
	delete(w.enis, 3)
	w.objects["a"].Status.Attachments[0].SubnetID = ""
	check("not listed")
	w.objects["a"].Status.Attachments[0].DeviceIndex = 7
	w.enis[3] = e
	if d := w.join().Devices[0]; d.DeviceIndex != 7 {
		t.Errorf("device index %d, want the status's 7", d.DeviceIndex)
	}
}

func TestDeclaredLimits(t *testing.T) {
	tests := map[string]struct {
		edit     func(*v1alpha1.NodeENI)
		problems []string
		mtu      int
	}{
		"largest MTU":        {func(o *v1alpha1.NodeENI) { o.Spec.MTU = 9216 }, nil, 9216},
		"MTU too large":      {func(o *v1alpha1.NodeENI) { o.Spec.MTU = 9217 }, []string{"InvalidMTU"}, 0},
		"largest index":      {func(o *v1alpha1.NodeENI) { o.Spec.DeviceIndex = maxDeviceIndex }, []string{"ENINotAttached"}, 0},
		"index out of range": {func(o *v1alpha1.NodeENI) { o.Spec.DeviceIndex = maxDeviceIndex + 1 }, []string{"InvalidDeviceIndex"}, 0},
	}
	for name, tt := range tests {
		w := newWorld(1)
		w.declare("a", 1, tt.edit)
		r := w.join()
		if !slices.Equal(reasons(r), tt.problems) || len(r.Devices) > 0 && r.Devices[0].MTU != tt.mtu {
			t.Errorf("%s: problems %q, rows %+v; want %q, MTU %d", name, reasons(r), r.Devices, tt.problems, tt.mtu)
		}
	}
}

func TestAllowedNamespaces(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	if got := w.join().Devices[0].AllowedNamespaces; got != nil {
		t.Errorf("without the annotation: %q", got)
	}
	w.declare("a", 1, allowing(" "))
	if got := w.join().Devices[0].AllowedNamespaces; !slices.Equal(got, []string{""}) {
		t.Errorf("with an annotation that names none: %q", got)
	}
}

func TestUnreadNodeENI(t *testing.T) {
	w := newWorld(1, 2)
	w.declare("a", 1)
	w.declare("b", 2)
	w.sync()
	w.objects, w.UnreadNodeENIs = map[string]*v1alpha1.NodeENI{}, []string{"a"}
	expect(t, w.sync(), nil, brief{"a", 1, pci(1), "eth1", "", ready}, brief{"b", 2, pci(2), "eth2", "", draining})
	w.declare("a", 1)
	w.declare("b", 2)
	expect(t, w.sync(), nil, brief{"a", 1, pci(1), "eth1", "", ready}, brief{"b", 2, pci(2), "eth2", "", ready})
}

func TestMessages(t *testing.T) {
	uio := func(w *world) { w.declare("a", 1, dpdk, statedPCI(pci(1).String())); w.bind(1, "igb_uio") }
	elsewhere := func(index int, edit ...func(*v1alpha1.NodeENI)) func(*world) {
		return func(w *world) { w.declare("a", index, edit...) }
	}
	subnetOf := func(n int) func(*v1alpha1.NodeENI) {
		return func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = subnet(n).String() }
	}
	tests := map[string]struct {
		setUp func(*world)
		want  string // "" for no problem
	}{
		"not attached, with a controller": {func(w *world) { w.Lookup = LookupNone; w.declare("a", 1, attached("node-b", 1)) }, "--attachments-from=imds"},
		"not attached, from a manifest":   {func(w *world) { w.declare("a", 1, attached("node-b", 1)) }, "leave the status out"},
		"foreign driver of a kernel device": {func(w *world) {
			w.declare("a", 1)
			w.hold(1, nodestate.ModeDPDK)
			w.bind(1, "vfio-pci")
		}, "to vfio-pci, but spec.enableDPDK is false"},
		"foreign driver of a DPDK device": {func(w *world) { uio(w); w.hold(1, nodestate.ModeDPDK) }, "to igb_uio, but spec.dpdkDriver is vfio-pci"},
		"no tag":                          {func(w *world) { w.guard(); w.declare("a", 1); w.tag(1, "") }, "EC2 shows no tag NodeENI on it"},
		"another tag":                     {func(w *world) { w.guard(); w.declare("a", 1); w.tag(1, "b") }, "EC2 shows the tag NodeENI=b on it"},
		"another subnet":                  {elsewhere(1, subnetOf(9)), "(" + eniID(1).String() + " at that index is in " + subnet(1).String() + ")"},
		"another index":                   {elsewhere(9, subnetOf(1)), "(" + eniID(1).String() + " in that subnet is at index 1)"},
		"neither":                         {elsewhere(9), "(no secondary ENI has either)"},
		"an index to come":                {func(w *world) { elsewhere(9, subnetOf(1))(w); w.setIndex(1, 0) }, ""},
		"a subnet to come":                {func(w *world) { elsewhere(9)(w); e := w.enis[1]; e.DeviceIndex, e.SubnetID = 0, ""; w.enis[1] = e }, ""},
		"index to come in another subnet": {func(w *world) { elsewhere(9)(w); w.setIndex(1, 0) }, "(no secondary ENI has either)"},
		"no link":                         {func(w *world) { w.declare("a", 1); w.unplug(1) }, "attach the ENI, or bring its link back"},
		"no link for DPDK":                {func(w *world) { w.declare("a", 1, dpdk); w.unplug(1) }, "if it is bound to vfio-pci already"},
	}
	for name, tt := range tests {
		w := newWorld(1)
		tt.setUp(w)
		r := w.join()
		if tt.want == "" && len(r.Problems) == 0 {
			continue
		}
		if len(r.Problems) != 1 || tt.want == "" || !strings.Contains(r.Problems[0].Message, tt.want) {
			t.Errorf("%s: problems %+v, want one with %q", name, r.Problems, tt.want)
		}
	}
}
