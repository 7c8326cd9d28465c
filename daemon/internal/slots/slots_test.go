package slots

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// world has two VPCs; in vpc-1 are subnets a1 and a2 in zone a, b1 in zone b, and two called twin.
func world() Input {
	subnet := func(id, vpcID, zone, name string) vpc.Subnet {
		return vpc.Subnet{ID: id, VPCID: vpcID, Zone: zone, Name: name, CIDR: netip.MustParsePrefix("10.0.1.0/24")}
	}
	a1, a2, b1 := subnet("subnet-a1", "vpc-1", "a", "one"), subnet("subnet-a2", "vpc-1", "a", "two"), subnet("subnet-b1", "vpc-1", "b", "bee")
	far, t1, t2 := subnet("subnet-far", "vpc-2", "a", "one"), subnet("subnet-t1", "vpc-1", "a", "twin"), subnet("subnet-t2", "vpc-1", "a", "twin")
	in := Input{Cluster: "c", Catalog: Catalog{
		SubnetIDs:   map[string][]vpc.Subnet{"subnet-a1": {a1}, "subnet-a2": {a2}, "subnet-b1": {b1}, "subnet-far": {far}, "subnet-none": nil},
		SubnetNames: map[string][]vpc.Subnet{"one": {a1, far}, "two": {a2}, "bee": {b1}, "twin": {t1, t2}, "none": {}},
		GroupIDs:    map[string][]vpc.SecurityGroup{"sg-1": {{ID: "sg-1", VPCID: "vpc-1"}}, "sg-far": {{ID: "sg-far", VPCID: "vpc-2"}}, "sg-none": nil},
		GroupNames: map[string][]vpc.SecurityGroup{
			"web":  {{ID: "sg-2", VPCID: "vpc-1"}, {ID: "sg-3", VPCID: "vpc-2"}},
			"twin": {{ID: "sg-5", VPCID: "vpc-1"}, {ID: "sg-4", VPCID: "vpc-1"}},
		},
	}}
	in.Nodes = []Node{{Name: "n", ProviderID: "aws:///a/i-0000000a", VPC: "vpc-1", Labels: map[string]string{"role": "x"}}}
	return in
}

func nodeENI(change func(*v1alpha1.NodeENI)) v1alpha1.NodeENI {
	e := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: "e", UID: "u", Annotations: map[string]string{}}}
	e.Spec = v1alpha1.NodeENISpec{NodeSelector: map[string]string{"role": "x"}, SubnetID: "subnet-a1", SecurityGroupIDs: []string{"sg-1"}}
	change(&e)
	return e
}

// brief shows slots as "subnet@exact groups".
func brief(list []Slot) []string {
	out := []string{}
	for _, s := range list {
		out = append(out, fmt.Sprintf("%s@%d %s", strings.TrimPrefix(s.Subnet, "subnet-"), s.Exact, strings.Join(s.Groups, "+")))
	}
	return out
}

var slotCases = []struct {
	name   string
	change func(*v1alpha1.NodeENI)
	input  func(*Input)
	want   []string
	fault  string   // reason of the only fault
	says   []string // in its message
	keep   bool
}{
	{name: "one subnet", want: []string{"a1@1 sg-1"}},
	{name: "the union in its order, each once", change: func(e *v1alpha1.NodeENI) {
		e.Spec.SubnetIDs, e.Spec.SubnetName, e.Spec.SubnetNames = []string{"subnet-a1", "subnet-a2"}, "one", []string{"two", "one"}
		e.Spec.DeviceIndex = 3
	}, want: []string{"a1@3 sg-1", "a2@4 sg-1"}},
	{name: "names come after ids", change: func(e *v1alpha1.NodeENI) {
		e.Spec.SubnetID, e.Spec.SubnetIDs, e.Spec.SubnetNames = "", []string{"subnet-a2"}, []string{"one"}
	}, want: []string{"a2@1 sg-1", "a1@2 sg-1"}},
	{name: "another zone is passed over, and keeps its place", change: func(e *v1alpha1.NodeENI) {
		e.Spec.SubnetID, e.Spec.SubnetIDs = "", []string{"subnet-b1", "subnet-a1"}
	}, want: []string{"a1@2 sg-1"}},
	{name: "no subnet in the zone", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetID = "subnet-b1" }, fault: NoSubnetInZone,
		says: []string{"zone a", "subnet-b1 in b", "add a subnet"}},
	{name: "groups by id and name", change: func(e *v1alpha1.NodeENI) { e.Spec.SecurityGroupNames = []string{"web"} }, want: []string{"a1@1 sg-1+sg-2"}},
	{name: "no group", change: func(e *v1alpha1.NodeENI) { e.Spec.SecurityGroupIDs = nil }, fault: NoSecurityGroup,
		says: []string{"spec.securityGroupIDs"}, keep: true},
	{name: "no subnet", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetID = "" }, fault: NoSubnet, says: []string{"spec.subnetID"}, keep: true},
	{name: "an unknown group", change: func(e *v1alpha1.NodeENI) { e.Spec.SecurityGroupIDs = []string{"sg-none"} }, fault: InvalidSecurityGroup,
		says: []string{`securityGroupIDs "sg-none"`, "vpc-1", "correct it"}, keep: true},
	{name: "a group of another VPC", change: func(e *v1alpha1.NodeENI) { e.Spec.SecurityGroupIDs = []string{"sg-far"} }, fault: InvalidSecurityGroup,
		says: []string{`"sg-far"`, "vpc-1"}, keep: true},
	{name: "two groups of a name", change: func(e *v1alpha1.NodeENI) { e.Spec.SecurityGroupNames = []string{"twin"} }, fault: AmbiguousSecurityGroup,
		says: []string{"sg-4, sg-5", "securityGroupIDs"}, keep: true},
	{name: "two subnets of a name", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetID, e.Spec.SubnetName = "", "twin" }, fault: AmbiguousSubnet,
		says: []string{"subnet-t1, subnet-t2", "subnetIDs"}, keep: true},
	{name: "a name of the other VPC only counts there", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetID, e.Spec.SubnetName = "", "one" },
		want: []string{"a1@1 sg-1"}},
	{name: "no subnet of that name", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetID, e.Spec.SubnetName = "", "none" }, fault: InvalidSubnet,
		says: []string{`subnetName "none"`, "vpc-1"}, keep: true},
	{name: "no such subnet", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetIDs = []string{"subnet-none"} }, want: []string{"a1@1 sg-1"}, fault: InvalidSubnet,
		says: []string{"subnetIDs subnet-none", "correct it"}, keep: true},
	{name: "an unknown subnet keeps its place", change: func(e *v1alpha1.NodeENI) {
		e.Spec.SubnetID, e.Spec.SubnetIDs = "", []string{"subnet-none", "subnet-a1"}
	}, want: []string{"a1@2 sg-1"}, fault: InvalidSubnet, keep: true},
	{name: "a subnet of another VPC", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetID = "subnet-far" }, fault: InvalidSubnet,
		says: []string{"vpc-2", "vpc-1"}, keep: true},
	{name: "a subnet that was not asked for", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetIDs = []string{"subnet-new", "subnet-a2"} },
		want: []string{"a1@1 sg-1"}, keep: true},
	{name: "a group that was not asked for", change: func(e *v1alpha1.NodeENI) { e.Spec.SecurityGroupIDs = []string{"sg-new"} }, keep: true},
	{name: "the node's VPC is not known", change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetNames = []string{"two"} },
		input: func(in *Input) { in.Nodes[0].VPC = "" },
		want:  []string{"a1@1 sg-1"}, keep: true},
	{name: "deleted", change: func(e *v1alpha1.NodeENI) { e.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }},
	{name: "not selected", change: func(e *v1alpha1.NodeENI) { e.Spec.NodeSelector["role"] = "y" }},
	{name: "no such label", change: func(e *v1alpha1.NodeENI) { e.Spec.NodeSelector["other"] = "" }},
	{name: "every node", change: func(e *v1alpha1.NodeENI) { e.Spec.NodeSelector = nil }, want: []string{"a1@1 sg-1"}},
	{name: "Auto Mode", input: func(in *Input) { in.Nodes[0].Labels["eks.amazonaws.com/compute-type"] = "auto" }, fault: AutoModeNode,
		says: []string{"eks.amazonaws.com/compute-type=auto", "spec.nodeSelector"}},
	{name: "no instance", input: func(in *Input) { in.Nodes[0].ProviderID = "kind://n" }, fault: NoInstance, says: []string{`"kind://n"`, "aws:///"}, keep: true},
	{name: "a providerID of something else", input: func(in *Input) { in.Nodes[0].ProviderID = "aws:///a/fargate-1" }, fault: NoInstance, keep: true},
	{name: "no zone", input: func(in *Input) { in.Nodes[0].ProviderID = "aws:///i-0000000a" }, fault: NoInstance,
		says: []string{"topology.kubernetes.io/zone"}, keep: true},
	{name: "the zone's label counts more", input: func(in *Input) { in.Nodes[0].Labels["topology.kubernetes.io/zone"] = "b" },
		change: func(e *v1alpha1.NodeENI) { e.Spec.SubnetIDs = []string{"subnet-b1"} }, want: []string{"b1@2 sg-1"}},
	{name: "an option", change: func(e *v1alpha1.NodeENI) { e.Annotations[AnnotationNetworkCard] = "x" }, fault: InvalidOption,
		says: []string{AnnotationNetworkCard, `"x"`, "want auto"}, keep: true},
	{name: "unreadable", input: func(in *Input) { in.NodeENIs, in.Unreadable = nil, []string{"u"} }, keep: true},
}

func TestSlots(t *testing.T) {
	for _, tt := range slotCases {
		t.Run(tt.name, func(t *testing.T) {
			in := world()
			if tt.change == nil {
				tt.change = func(*v1alpha1.NodeENI) {}
			}
			in.NodeENIs = []v1alpha1.NodeENI{nodeENI(tt.change)}
			if tt.input != nil {
				tt.input(&in)
			}
			r := Slots(in)
			if diff := cmp.Diff(tt.want, brief(r.Slots), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("slots (-want +got):\n%s", diff)
			}
			if r.Keep("u", "n") != tt.keep {
				t.Errorf("keep: %v", !tt.keep)
			}
			if r.Keep("other", "n") || len(in.Unreadable) == 0 && r.Keep("u", "other") {
				t.Error("it keeps the entries of others")
			}
			checkFault(t, r.Faults, tt.fault, tt.says)
		})
	}
}

func checkFault(t *testing.T, faults []Fault, reason string, says []string) {
	t.Helper()
	if reason == "" {
		if len(faults) > 0 {
			t.Errorf("faults: %v", faults)
		}
		return
	}
	if len(faults) != 1 || faults[0].Reason != reason {
		t.Fatalf("faults %v, want just %s", faults, reason)
	}
	for _, s := range says {
		if !strings.Contains(faults[0].Message, s) {
			t.Errorf("message %q lacks %q", faults[0].Message, s)
		}
	}
}

func TestSlotHasAll(t *testing.T) {
	in := world()
	in.NodeENIs = []v1alpha1.NodeENI{nodeENI(func(e *v1alpha1.NodeENI) {
		e.Generation = 7
		e.Spec.MTU, e.Spec.EnableDPDK, e.Spec.DPDKResourceName, e.Spec.DPDKPCIAddress, e.Spec.Description = 9001, true, "a/b", "0000:00:07.0", "text"
		e.Annotations = map[string]string{AnnotationNetworkCard: "2", v1alpha1.AnnotationAllowedNamespaces: "x"}
	})}
	in.Nodes = append(in.Nodes, Node{Name: "m", ProviderID: "aws:///a/i-0000000b", VPC: "vpc-1", Labels: map[string]string{"role": "x"}})
	got := Slots(in).Slots
	want := Slot{
		ID: NewID("c", "u", "i-0000000b", "subnet-a1"), NodeENI: NodeENI{"e", "u", 7}, Node: "m", Instance: "i-0000000b", VPC: "vpc-1", Zone: "a",
		Subnet: "subnet-a1", SubnetCIDR: "10.0.1.0/24", Groups: []string{"sg-1"}, Exact: 1, Index: 1, Card: 2,
		Options: Options{DeleteOnTermination: true, Description: "text", MTU: 9001, EnableDPDK: true, DPDKDriver: "vfio-pci", DPDKPCIAddress: "0000:00:07.0",
			DPDKResourceName: "a/b", AllowedNamespaces: new("x")},
	}
	if len(got) != 2 || got[1].Node != "n" || got[1].ID == got[0].ID {
		t.Fatalf("slots: %+v", got)
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("slot (-want +got):\n%s", diff)
	}
	if want.ID != "3e1ddb45739b30a9" { // sha256sum of c|u|i-0000000b|subnet-a1
		t.Errorf("id %s", want.ID)
	}
}

func TestNode(t *testing.T) {
	n := Node{ProviderID: "aws:///us-east-1a/i-0a1b2c3d4e5f60718", Labels: map[string]string{"node.kubernetes.io/instance-type": "m5.large"}}
	if n.Instance() != "i-0a1b2c3d4e5f60718" || n.Zone() != "us-east-1a" || n.Type() != "m5.large" || n.Auto() {
		t.Errorf("%s %s %s %v", n.Instance(), n.Zone(), n.Type(), n.Auto())
	}
}

func TestNeed(t *testing.T) {
	a := nodeENI(func(e *v1alpha1.NodeENI) {
		e.Spec.SubnetIDs, e.Spec.SubnetName, e.Spec.SecurityGroupNames = []string{"subnet-a0", ""}, "two", []string{"web", ""}
	})
	b := nodeENI(func(e *v1alpha1.NodeENI) {
		e.Spec.SubnetNames, e.Spec.SecurityGroupIDs = []string{"one", "two"}, []string{"sg-0", "sg-1"}
	})
	ids, names, groups, groupNames := Need([]v1alpha1.NodeENI{a, b})
	got := [][]string{ids, names, groups, groupNames}
	if diff := cmp.Diff([][]string{{"subnet-a0", "subnet-a1"}, {"one", "two"}, {"sg-0", "sg-1"}, {"web"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAFaultIsToldOnce(t *testing.T) {
	in := world()
	in.Nodes = append(in.Nodes, Node{Name: "m", ProviderID: "aws:///a/i-0000000b", VPC: "vpc-1", Labels: map[string]string{"role": "x"}})
	in.NodeENIs = []v1alpha1.NodeENI{nodeENI(func(e *v1alpha1.NodeENI) { e.Spec.SubnetID = "subnet-none" })}
	if f := Slots(in).Faults; len(f) != 1 || f[0].Node != "" || f[0].NodeENI.UID != "u" {
		t.Errorf("faults: %v", f)
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	in := world()
	for _, name := range []string{"c", "a", "b"} {
		in.NodeENIs = append(in.NodeENIs, nodeENI(func(e *v1alpha1.NodeENI) { e.Name, e.UID = name, types.UID(name) }))
	}
	in.Nodes = append(in.Nodes, Node{Name: "m", ProviderID: "aws:///a/i-0000000b", VPC: "vpc-1", Labels: map[string]string{"role": "x"}})
	first := Slots(in)
	slices.Reverse(in.NodeENIs)
	slices.Reverse(in.Nodes)
	if diff := cmp.Diff(first.Slots, Slots(in).Slots); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
	if first.Slots[0].Node != "m" || first.Slots[0].NodeENI.Name != "a" || first.Slots[2].NodeENI.Name != "c" {
		t.Errorf("%v", first.Slots)
	}
}
