package catalog_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/catalog"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var t0 = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestCatalogAsksOnce(t *testing.T) {
	e := v1alpha1.NodeENI{Spec: v1alpha1.NodeENISpec{SubnetID: "subnet-1", SubnetNames: []string{"blue", "none"}, SecurityGroupIDs: []string{"sg-1"}}}
	list := []v1alpha1.NodeENI{e}
	c := catalog.New()
	q := c.Ask(t0, list)
	want := catalog.Question{SubnetIDs: []string{"subnet-1"}, SubnetNames: []string{"blue", "none"}, GroupIDs: []string{"sg-1"}}
	if diff := cmp.Diff(want, q); diff != "" {
		t.Fatalf("first question (-want +got):\n%s", diff)
	}
	if again := c.Ask(t0, list); again.Subnets() || again.Groups() {
		t.Errorf("asked twice: %+v", again)
	}
	c.Groups(t0, q, nil, errors.New("throttled"))
	if again := c.Ask(t0, list); again.Subnets() || len(again.GroupIDs) != 1 {
		t.Errorf("after an error: %+v, want the group again", again)
	}
	c.Groups(t0, q, []vpc.SecurityGroup{{ID: "sg-1"}}, nil)
	c.Subnets(t0, q, []vpc.Subnet{{ID: "subnet-1"}, {ID: "subnet-2", Name: "blue"}, {ID: "subnet-3", Name: "blue"}}, nil)
	if got := c.Known(); len(got.SubnetIDs["subnet-1"]) != 1 || len(got.SubnetNames["blue"]) != 2 || got.SubnetNames["none"] == nil {
		t.Errorf("known %+v", got)
	}
	if again := c.Ask(t0.Add(catalog.Retry-1), list); again.Subnets() || again.Groups() {
		t.Errorf("asked too soon: %+v", again)
	}
	if diff := cmp.Diff(catalog.Question{SubnetNames: []string{"blue", "none"}}, c.Ask(t0.Add(catalog.Retry), list)); diff != "" {
		t.Errorf("after Retry (-want +got):\n%s", diff)
	}
	c.DoubtSubnet(t0, "subnet-1")
	c.DoubtGroups(t0, []string{"sg-1"})
	if diff := cmp.Diff(catalog.Question{SubnetIDs: []string{"subnet-1"}, GroupIDs: []string{"sg-1"}}, c.Ask(t0, list)); diff != "" {
		t.Errorf("in doubt (-want +got):\n%s", diff)
	}
}
