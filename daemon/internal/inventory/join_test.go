package inventory

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func TestJoinDescribesTheWholeDevice(t *testing.T) {
	w := newWorld(3)
	w.declare("a", 3, resource("intel.com/fast"), func(o *v1alpha1.NodeENI) {
		o.Spec.MTU = 9001
		o.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: "red, blue"}
	})
	e := w.enis[3]
	e.NetworkCard, e.Prefixes = 1, []netip.Prefix{netip.MustParsePrefix("10.0.3.64/28")}
	w.enis[3] = e
	want := []nodestate.Device{{
		ENIID: eniID(3), NodeENI: "a", MAC: mac(3), PCIAddress: pci(3), InterfaceName: "eth3", Driver: "ena",
		DeviceIndex: 3, NetworkCard: 1, SubnetID: subnet(3), SubnetCIDR: e.SubnetCIDR, Addresses: e.Addresses, Prefixes: e.Prefixes,
		MTU: 9001, ResourceName: "intel.com/fast", AllowedNamespaces: []string{"blue", "red"}, Phase: ready,
	}}
	r := w.sync()
	if diff := cmp.Diff(want, r.Devices, comparePrefix); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if len(r.Problems) != 0 || r.Unsettled {
		t.Errorf("problems %v, unsettled %v; want none and false", r.Problems, r.Unsettled)
	}
}

var joinOnce = []struct {
	name          string
	setUp         func(*world)
	rows          []brief
	problems      []string
	idle          int
	driverChanges []string
}{
	{
		name:  "nothing declared: nothing is ours",
		setUp: func(*world) {},
	},
	{name: "case 1: link still down", setUp: func(w *world) { w.declare("a", 1) }, rows: []brief{{"a", 1, pci(1), "eth1", "", pending}}, idle: 1},
	{name: "case 1: link up", setUp: func(w *world) { w.declare("a", 1); w.setUp(1) }, rows: []brief{{"a", 1, pci(1), "eth1", "", ready}}, idle: 1},
	{
		name:  "case 1: up, with another MTU",
		setUp: func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.MTU = 9001 }); w.setUp(1) },
		rows:  []brief{{"a", 1, pci(1), "eth1", "", pending}}, idle: 1,
	},
	{
		name: "case 2: by resource name", setUp: func(w *world) { w.declare("a", 1, resource("intel.com/x")); w.setUp(1) },
		rows: []brief{{"a", 1, pci(1), "eth1", "intel.com/x", ready}}, idle: 1,
	},
	{
		name:  "case 2: by PCI address, with the default name",
		setUp: func(w *world) { w.declare("a", 1, statedPCI(pci(1).String())); w.setUp(1) },
		rows:  []brief{{"a", 1, pci(1), "eth1", v1alpha1.DefaultResourceName, ready}},
		idle:  1,
	},
	{
		name: "case 3: still bound to the kernel's driver", setUp: func(w *world) { w.declare("a", 1, dpdk); w.setUp(1) },
		rows: []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, pending}}, driverChanges: []string{"vfio-pci"},
	},
	{
		name:     "case 3: a pod has it as a kernel device",
		setUp:    func(w *world) { w.declare("a", 1, dpdk); w.hold(1, nodestate.ModeExclusive) },
		rows:     []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, pending}},
		problems: []string{"DriverNotBound"},
	},
	{
		name:  "case 3: the kubelet has given it to a pod",
		setUp: func(w *world) { w.declare("a", 1, dpdk); w.kubelet(nil, 1) },
		rows:  []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, pending}},
	},
	{
		name: "case 3: bound to another userspace driver by somebody else",
		setUp: func(w *world) {
			w.declare("a", 1, dpdk, statedPCI(pci(1).String()))
			w.hold(1, nodestate.ModeDPDK)
			w.bind(1, "igb_uio")
		},
		rows:     []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, pending}},
		problems: []string{"DriverMismatch"},
	},
	{
		name: "case 3: no netdev in the host, so nothing says what the function is",
		setUp: func(w *world) {
			w.declare("a", 1, dpdk)
			w.join()
			delete(w.links, 1)
			w.setFunction(1, func(f *sysfs.PCIFunction) { f.Interfaces = nil })
		},
		rows:     []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, pending}},
		problems: []string{"NoInterface"},
	},
	{
		name:  "case 3: bound before we came, its address written down",
		setUp: func(w *world) { w.declare("a", 1, dpdk, statedPCI(pci(1).String())); w.bind(1, "vfio-pci") },
		rows:  []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, ready}},
	},
	{
		name:     "case 3: bound before we came, its address not written down",
		setUp:    func(w *world) { w.declare("a", 1, dpdk); w.bind(1, "vfio-pci") },
		rows:     []brief{{"a", 1, "", "", v1alpha1.DefaultResourceName, pending}},
		problems: []string{"DeviceNotSeen"},
	},
	{
		name: "case 3: the address written down is not a network function",
		setUp: func(w *world) {
			w.declare("a", 1, dpdk, statedPCI(pci(1).String()))
			w.bind(1, "vfio-pci")
			w.setFunction(1, func(f *sysfs.PCIFunction) { f.Class = 0x010802 })
		},
		rows:     []brief{{"a", 1, "", "", v1alpha1.DefaultResourceName, pending}},
		problems: []string{"DeviceNotSeen"},
	},
	{
		name:     "case 3: dpdkDriver is a kernel driver",
		setUp:    func(w *world) { w.declare("a", 1, dpdk, func(o *v1alpha1.NodeENI) { o.Spec.DPDKDriver = "ena" }) },
		rows:     []brief{{"a", 1, pci(1), "eth1", v1alpha1.DefaultResourceName, pending}},
		problems: []string{"InvalidDPDKDriver"},
	},
	{
		name:     "case 1: bound to a userspace driver",
		setUp:    func(w *world) { w.declare("a", 1); w.hold(1, nodestate.ModeDPDK); w.bind(1, "vfio-pci") },
		rows:     []brief{{"a", 1, pci(1), "", "", pending}},
		problems: []string{"DriverMismatch"},
	},
	{
		name: "dpdkPCIAddress disagrees", setUp: func(w *world) { w.declare("a", 1, statedPCI(pci(2).String())); w.setUp(1) },
		rows: []brief{{"a", 1, pci(1), "eth1", v1alpha1.DefaultResourceName, pending}}, problems: []string{"PCIAddressMismatch"},
	},
	{
		name: "dpdkPCIAddress without a domain", setUp: func(w *world) { w.declare("a", 1, statedPCI("00:06.0")); w.setUp(1) },
		rows: []brief{{"a", 1, pci(1), "eth1", v1alpha1.DefaultResourceName, pending}}, problems: []string{"InvalidPCIAddress"},
	},
	{
		name: "dpdkPCIAddress in upper case",
		setUp: func(w *world) {
			w.attach(10)
			w.declare("a", 10, statedPCI(strings.ToUpper(pci(10).String())))
			w.setUp(10)
		},
		rows: []brief{{"a", 10, pci(10), "eth10", v1alpha1.DefaultResourceName, ready}},
		idle: 1,
	},
	{
		name:  "resource name that the device plugin would exit on",
		setUp: func(w *world) { w.declare("a", 1, resource("intel.com/fast net")); w.setUp(1) },
		rows:  []brief{{"a", 1, pci(1), "eth1", "", ready}}, problems: []string{"InvalidResourceName"}, idle: 1,
	},
	{
		name:  "MTU out of range",
		setUp: func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.MTU = 65536 }); w.setUp(1) },
		rows:  []brief{{"a", 1, pci(1), "eth1", "", ready}}, problems: []string{"InvalidMTU"}, idle: 1,
	},
	{
		name: "device index of the primary ENI stands for the default", setUp: func(w *world) { w.declare("a", 0) },
		rows: []brief{{"a", -1, "", "", "", pending}}, problems: []string{"ENINotAttached"},
	},
	{name: "status names the primary ENI", setUp: func(w *world) { w.declare("a", 0, attached(node, 0)) }, problems: []string{"PrimaryENI"}},
	{
		name: "an EFA",
		setUp: func(w *world) {
			w.declare("a", 1)
			w.setFunction(1, func(f *sysfs.PCIFunction) { f.Device = 0xefa1 })
		},
		problems: []string{"EFADevice"},
	},
	{
		name:  "two NodeENIs name one ENI: the first by name has it",
		setUp: func(w *world) { w.declare("b", 1); w.declare("a", 1); w.setUp(1) },
		rows:  []brief{{"a", 1, pci(1), "eth1", "", ready}}, problems: []string{"ENIClaimedTwice"}, idle: 1,
	},
	{
		name:     "the right index in another subnet",
		setUp:    func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = subnet(9).String() }) },
		rows:     []brief{{"a", -1, "", "", "", pending}},
		problems: []string{"ENINotAttached"},
	},
	{
		name:     "the right subnet at another index",
		setUp:    func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.DeviceIndex = 9 }) },
		rows:     []brief{{"a", -1, "", "", "", pending}},
		problems: []string{"ENINotAttached"},
	},
	{
		name:  "IMDS does not know the index yet",
		setUp: func(w *world) { w.declare("a", 1); w.setIndex(1, -1) },
		rows:  []brief{{"a", -1, "", "", "", pending}},
	},
	{name: "IMDS is not there", setUp: func(w *world) { w.declare("a", 1); w.unknown.enis = true }, rows: []brief{{"a", -1, "", "", "", pending}}},
	{
		name: "hot-plugged: no function yet", setUp: func(w *world) { w.declare("a", 1); w.unplug(1) },
		rows: []brief{{"a", 1, "", "", "", pending}}, problems: []string{"DeviceNotSeen"},
	},
	{
		name:  "sysfs unreadable",
		setUp: func(w *world) { w.declare("a", 1); w.setUp(1); w.unknown.functions = true },
		rows:  []brief{{"a", 1, "", "", "", pending}},
	},
	{
		name:  "a pod has it, and we have forgotten everything",
		setUp: func(w *world) { w.declare("a", 1, resource("intel.com/x")); w.hold(1, nodestate.ModeExclusive) },
		rows:  []brief{{"a", 1, pci(1), "", "intel.com/x", ready}},
	},
	{
		name: "a pod of an earlier boot had it",
		setUp: func(w *world) {
			w.declare("a", 1)
			w.hold(1, nodestate.ModeShared)
			w.records[0].BootID = "another"
		},
		rows: []brief{{"a", 1, pci(1), "eth1", "", pending}},
		idle: 1,
	},
	{
		name:  "a pod shares it: its link is not ours to change",
		setUp: func(w *world) { w.declare("a", 1); w.setUp(1); w.hold(1, nodestate.ModeShared) },
		rows:  []brief{{"a", 1, pci(1), "eth1", "", ready}},
	},
	{
		name:  "records unreadable: its link may be a pod's",
		setUp: func(w *world) { w.declare("a", 1); w.unknown.records = true },
		rows:  []brief{{"a", 1, pci(1), "eth1", "", pending}},
	},
	{
		name: "links that share the MAC are not the device",
		setUp: func(w *world) {
			w.declare("a", 1)
			w.setUp(1)
			w.links[14] = link.Link{Index: 16, Name: "eth1.100", MAC: mac(1), Kind: "vlan", Up: true}
		},
		rows: []brief{{"a", 1, pci(1), "eth1", "", ready}},
		idle: 1,
	},
	{
		name: "two functions with one MAC",
		setUp: func(w *world) {
			w.declare("a", 1)
			w.plug(2)
			l := w.links[2]
			l.MAC = mac(1)
			w.links[2] = l
		},
		rows:     []brief{{"a", 1, "", "", "", pending}},
		problems: []string{"DuplicateMAC"},
	},
	{
		name: "the kernel does not name the parent, sysfs does",
		setUp: func(w *world) {
			w.declare("a", 1)
			w.setUp(1)
			l := w.links[1]
			l.Parent = ""
			w.links[1] = l
		},
		rows: []brief{{"a", 1, pci(1), "eth1", "", ready}},
		idle: 1,
	},
	{
		name: "a function without a driver",
		setUp: func(w *world) {
			w.declare("a", 1)
			w.hold(1, nodestate.ModeExclusive)
			w.setFunction(1, func(f *sysfs.PCIFunction) { f.Driver = "" })
		},
		rows: []brief{{"a", 1, pci(1), "", "", pending}},
	},
	{
		name: "subnets cannot be looked up by name",
		setUp: func(w *world) {
			w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID, o.Spec.SubnetName = "", "apps" })
		},
		problems: []string{"SubnetNameUnknown"},
	},
	{
		name:     "no subnet at all",
		setUp:    func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = "" }) },
		problems: []string{"NoSubnet"},
	},
	{
		name:     "malformed subnet",
		setUp:    func(w *world) { w.declare("a", 1, func(o *v1alpha1.NodeENI) { o.Spec.SubnetID = "subnet-1" }) },
		problems: []string{"InvalidSubnetID"},
	},
	{
		name: "status names the ENI", setUp: func(w *world) { w.declare("a", 7, attached(node, 1)); w.setUp(1) },
		rows: []brief{{"a", 1, pci(1), "eth1", "", ready}}, idle: 1,
	},
	{
		name:     "status is about other nodes",
		setUp:    func(w *world) { w.declare("a", 1, attached("node-b", 1)) },
		problems: []string{"NotAttached"},
	},
	{
		name: "status has a malformed ENI id",
		setUp: func(w *world) {
			w.declare("a", 1, attached(node, 1), func(o *v1alpha1.NodeENI) { o.Status.Attachments[0].ENIID = "eni-1" })
		},
		problems: []string{"InvalidENIID"},
	},
	{
		name: "status names an ENI that IMDS does not have", setUp: func(w *world) { w.declare("a", 5, attached(node, 5)) },
		rows: []brief{{"a", 5, "", "", "", pending}}, problems: []string{"ENINotListed"},
	},
	{
		name: "case 3 bound by the public controller",
		setUp: func(w *world) {
			w.declare("a", 1, dpdk, attached(node, 1), func(o *v1alpha1.NodeENI) {
				a := &o.Status.Attachments[0]
				a.DPDKBound, a.DPDKPCIAddress = true, pci(1).String()
			})
			w.bind(1, "vfio-pci")
		},
		rows: []brief{{"a", 1, pci(1), "", v1alpha1.DefaultResourceName, ready}},
	},
	{
		name: "an annotation that names nobody",
		setUp: func(w *world) {
			w.declare("a", 1, func(o *v1alpha1.NodeENI) {
				o.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: " "}
			})
			w.setUp(1)
		},
		rows:     []brief{{"a", 1, pci(1), "eth1", "", ready}},
		problems: []string{"InvalidAllowedNamespaces"},
		idle:     1,
	},
}

func TestJoinOnce(t *testing.T) {
	for _, tt := range joinOnce {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(1)
			tt.setUp(w)
			r := w.join()
			expect(t, r, tt.problems, tt.rows...)
			if len(r.Idle) != tt.idle {
				t.Errorf("idle links %v, want %d", r.Idle, tt.idle)
			}
			if diff := cmp.Diff(tt.driverChanges, driverChanges(r), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("driverChanges (-want +got):\n%s", diff)
			}
			if again := w.join(); len(again.Problems) != len(r.Problems) || len(again.Devices) != len(r.Devices) {
				t.Errorf("a second Join says otherwise: %+v, %+v", again.Devices, again.Problems)
			}
		})
	}
}
