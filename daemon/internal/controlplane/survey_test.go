package controlplane

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// ec2 is a region with one VPC, or one that does not answer.
type ec2 struct{ away bool }

func (e ec2) Subnets(context.Context, []string, []string) ([]vpc.Subnet, error) {
	if e.away {
		return nil, errors.New("away")
	}
	return []vpc.Subnet{{ID: "subnet-a", Name: "pods", VPCID: "vpc-1", Zone: "z1"}}, nil
}

func (e ec2) SecurityGroups(context.Context, []string, []string) ([]vpc.SecurityGroup, error) {
	if e.away {
		return nil, errors.New("away")
	}
	return []vpc.SecurityGroup{{ID: "sg-1", Name: "all", VPCID: "vpc-1"}}, nil
}

func (e ec2) Instance(context.Context, string) (vpc.Instance, error) {
	return vpc.Instance{VPCID: "vpc-1"}, nil
}

func nodeENI(name string, spec v1alpha1.NodeENISpec) *fleet.Object[v1alpha1.NodeENI] {
	return &fleet.Object[v1alpha1.NodeENI]{Name: name, Known: true, Is: v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u-" + "x"}, Spec: spec}}
}

func aNode(name, provider, zone string) *fleet.Object[fleet.Node] {
	return &fleet.Object[fleet.Node]{Name: name, Known: true, Is: fleet.Node{ProviderID: provider, Labels: map[string]string{"topology.kubernetes.io/zone": zone}}}
}

func TestSurvey(t *testing.T) {
	auto := aNode("auto", "aws:///z1/i-0123456789abcde03", "z1")
	auto.Is.Labels["eks.amazonaws.com/compute-type"] = "auto"
	booting := aNode("booting", "aws:///z1/i-0123456789abcde04", "z1")
	silent := aNode("silent", "aws:///z1/i-0123456789abcde05", "z1")
	blank := aNode("blank", "aws:///z1/i-0123456789abcde06", "z1")
	silent.Is.Ready, blank.Is.Ready = true, true
	seen := fleet.Snapshot{
		NodeENIs: map[string]*fleet.Object[v1alpha1.NodeENI]{
			"by-name":  nodeENI("by-name", v1alpha1.NodeENISpec{SubnetName: "pods", SecurityGroupNames: []string{"all"}}),
			"no-group": nodeENI("no-group", v1alpha1.NodeENISpec{SubnetID: "subnet-a"}),
			"odd":      {Name: "odd", Fault: "no such field"},
		},
		Nodes: map[string]*fleet.Object[fleet.Node]{
			"old":  aNode("old", "aws:///z1/i-0123456789abcde01", "z1"),
			"far":  aNode("far", "aws:///z2/i-0123456789abcde02", "z2"),
			"auto": auto, "bare": aNode("bare", "", "z1"), "booting": booting, "silent": silent, "blank": blank,
		},
		States: map[string]*fleet.Object[fleet.State]{
			"old":   {Name: "old", Known: true, Is: fleet.State{Reported: true}},
			"blank": {Name: "blank", Known: true},                                // the controller has made it
			"far":   {Name: "far", Known: true, Is: fleet.State{Reported: true}}, // no ENI is wanted there
		},
	}
	got := (&cluster{ec2: ec2{}}).survey(t.Context(), seen)
	for i := range got.Faults {
		if got.Faults[i].Message == "" {
			t.Errorf("%v has no remedy", got.Faults[i])
		}
		got.Faults[i].Message = ""
	}
	want := doctor.Survey{
		NodeENIs: 3, Nodes: 7, NoInstance: []string{"bare"}, AutoMode: []string{"auto"}, OldDaemons: []string{"old"},
		SilentDaemons: []string{"blank", "silent"},
		Instances:     []string{"i-0123456789abcde01", "i-0123456789abcde04", "i-0123456789abcde05", "i-0123456789abcde06"}, Unreadable: []string{"NodeENI odd"},
		Faults: []doctor.SlotFault{{NodeENI: "by-name", Node: "far", Reason: "NoSubnetInZone"}, {NodeENI: "no-group", Reason: "NoSecurityGroup"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	away := (&cluster{ec2: ec2{away: true}}).survey(t.Context(), seen)
	if len(away.Instances) != 0 || len(away.Faults) != 1 || away.Faults[0].Reason != "NoSecurityGroup" {
		t.Errorf("without EC2: %v", away)
	}
}
