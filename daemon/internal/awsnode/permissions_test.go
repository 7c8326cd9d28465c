package awsnode

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// TestPermissions asks for each right alone and changes nothing. Answers that are not EC2's do not count.
func TestPermissions(t *testing.T) {
	untagged := tagged(2)
	untagged.Tags = nil
	denied := ""
	cfg := fakeec2.Config{
		ENIs: []fakeec2.ENI{tagged(1), untagged},
		May:  func(action string, e fakeec2.ENI) bool { return e.Tags[vpc.NodeENITag] != "" && action != denied },
	}
	c, _ := ec2Of(t, cfg)
	says := func(what string, eni device.ENIID, want ...string) {
		t.Helper()
		var got []string
		for _, p := range c.Permissions(t.Context(), eni) {
			said := "may"
			if p.Err != nil {
				said = fmt.Sprint(p.Err.Code, " ", p.Err.Kind == vpc.EC2Forbidden)
			}
			got = append(got, p.Action+" "+said)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	const assign4, unassign4, assign6, unassign6 = "AssignPrivateIpAddresses ", "UnassignPrivateIpAddresses ", "AssignIpv6Addresses ", "UnassignIpv6Addresses "
	says("EC2 answers no dry run", "eni-00000001", assign4+"UnknownParameter false", unassign4+"UnknownParameter false", assign6+"UnknownParameter false",
		unassign6+"UnknownParameter false")
	says("no dry run, no tag", "eni-00000002", assign4+"UnauthorizedOperation true", unassign4+"UnauthorizedOperation true", assign6+"UnauthorizedOperation true",
		unassign6+"UnauthorizedOperation true")
	cfg.DryRun = true
	var s *fakeec2.Server
	c, s = ec2Of(t, cfg)
	says("all", "eni-00000001", assign4+"may", unassign4+"may", assign6+"may", unassign6+"may")
	says("no tag", "eni-00000002", assign4+"UnauthorizedOperation true", unassign4+"UnauthorizedOperation true", assign6+"UnauthorizedOperation true",
		unassign6+"UnauthorizedOperation true")
	denied = "UnassignIpv6Addresses"
	says("one denied", "eni-00000001", assign4+"may", unassign4+"may", assign6+"may", unassign6+"UnauthorizedOperation true")
	s.Fail("AssignIpv6Addresses", "InvalidParameterValue")
	s.Fail("AssignPrivateIpAddresses", slices.Repeat([]string{"drop"}, 10)...)
	says("no answer to the question", "eni-00000001", assign4+" false", unassign4+"may", assign6+"InvalidParameterValue false",
		unassign6+"UnauthorizedOperation true")
	for _, want := range []fakeec2.ENI{tagged(1), untagged} {
		if diff := cmp.Diff(want, s.ENI(want.ID), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("the ENI was changed (-want +got):\n%s", diff)
		}
	}
}

// TestPermissionsWithoutDryRun: a service that ignores DryRun changes nothing either, since no ENI can have the address.
func TestPermissionsWithoutDryRun(t *testing.T) {
	c, s := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}})
	if _, _, err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.dry = c.calls
	for _, p := range c.Permissions(t.Context(), "eni-00000001") {
		if p.Err == nil || p.Err.Kind != vpc.EC2Refused {
			t.Errorf("%s: %v", p.Action, p.Err)
		}
	}
	if diff := cmp.Diff(tagged(1), s.ENI("eni-00000001"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the ENI was changed (-want +got):\n%s", diff)
	}
}

// TestPolicyOfDeploy: the shipped policy allows these calls and their dry runs, and changes only of tagged ENIs.
func TestPolicyOfDeploy(t *testing.T) {
	data, err := os.ReadFile("../../../deploy/iam/multi-enid.json")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Statement []struct {
			Effect    string
			Action    any
			Resource  string
			Condition map[string]map[string]string
		}
	}
	if err := json.Unmarshal(data, &policy); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{} // by action: its resource and condition
	for _, s := range policy.Statement {
		actions, ok := s.Action.([]any)
		if !ok {
			actions = []any{s.Action}
		}
		for _, a := range actions {
			got[fmt.Sprint(s.Effect, " ", a)] = fmt.Sprint(s.Resource, " ", s.Condition)
		}
	}
	const tagged = "arn:aws:ec2:*:*:network-interface/* map[Null:map[aws:ResourceTag/" + vpc.NodeENITag + ":false]]"
	want := map[string]string{
		"Allow ec2:DescribeNetworkInterfaces": "* map[]", "Allow ec2:AssignPrivateIpAddresses": tagged, "Allow ec2:UnassignPrivateIpAddresses": tagged,
		"Allow ec2:AssignIpv6Addresses": tagged, "Allow ec2:UnassignIpv6Addresses": tagged,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rights (-want +got):\n%s", diff)
	}
}
