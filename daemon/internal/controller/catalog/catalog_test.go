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
	for _, since := range []time.Duration{0, time.Minute} {
		if due := c.Due(t0.Add(since)); !due.Equal(t0.Add(catalog.Retry)) {
			t.Errorf("after %v due at %v", since, due)
		}
	}
	if again := c.Ask(t0.Add(catalog.Retry-1), list); again.Subnets() || again.Groups() {
		t.Errorf("asked too soon: %+v", again)
	}
	if diff := cmp.Diff(catalog.Question{SubnetNames: []string{"blue", "none"}}, c.Ask(t0.Add(catalog.Retry), list)); diff != "" {
		t.Errorf("after Retry (-want +got):\n%s", diff)
	}
	if now := t0.Add(catalog.Retry); !c.Due(now).Equal(now.Add(catalog.Retry)) {
		t.Errorf("due at %v while asked", c.Due(now))
	}
	c.DoubtSubnet(t0, "subnet-1")
	c.DoubtGroups(t0, []string{"sg-1"})
	if diff := cmp.Diff(catalog.Question{SubnetIDs: []string{"subnet-1"}, GroupIDs: []string{"sg-1"}}, c.Ask(t0, list)); diff != "" {
		t.Errorf("in doubt (-want +got):\n%s", diff)
	}
	c.Subnets(t0, catalog.Question{SubnetNames: []string{"blue"}}, []vpc.Subnet{{ID: "subnet-3", Name: "blue"}}, nil)
	c.DoubtSubnet(t0, "subnet-3")
	if diff := cmp.Diff(catalog.Question{SubnetNames: []string{"blue"}}, c.Ask(t0, list)); diff != "" {
		t.Errorf("in doubt by its name (-want +got):\n%s", diff)
	}
}

// TestDoubtedNames: a refused subnet or group is asked for again by each name that means it, and by no other one. Until the answer the old one
// stays known; the new one may be another, two, or none.
func TestDoubtedNames(t *testing.T) {
	e := v1alpha1.NodeENI{Spec: v1alpha1.NodeENISpec{SubnetNames: []string{"blue", "green"}, SecurityGroupNames: []string{"pods", "more"}}}
	list := []v1alpha1.NodeENI{e}
	c := catalog.New()
	q := c.Ask(t0, list)
	c.Subnets(t0, q, []vpc.Subnet{{ID: "subnet-1", Name: "blue"}, {ID: "subnet-2", Name: "green"}}, nil)
	c.Groups(t0, q, []vpc.SecurityGroup{{ID: "sg-1", Name: "pods"}, {ID: "sg-2", Name: "more"}}, nil)
	if again := c.Ask(t0.Add(24*time.Hour), list); again.Subnets() || again.Groups() {
		t.Errorf("asked without doubt: %+v", again)
	}
	now := t0.Add(time.Hour)
	c.DoubtSubnet(now, "subnet-1")
	c.DoubtGroups(now, []string{"sg-2", "sg-3"})
	q = c.Ask(now, list)
	if diff := cmp.Diff(catalog.Question{SubnetNames: []string{"blue"}, GroupNames: []string{"more"}}, q); diff != "" {
		t.Errorf("in doubt (-want +got):\n%s", diff)
	}
	if got := c.Known(); len(got.SubnetNames["blue"]) != 1 || len(got.GroupNames["more"]) != 1 {
		t.Errorf("known while asked %+v", got)
	}
	c.Subnets(now, q, []vpc.Subnet{{ID: "subnet-1", Name: "blue"}, {ID: "subnet-3", Name: "blue"}}, nil)
	c.Groups(now, q, []vpc.SecurityGroup{{ID: "sg-3", Name: "more"}}, nil)
	if got := c.Known(); len(got.SubnetNames["blue"]) != 2 || got.GroupNames["more"][0].ID != "sg-3" {
		t.Errorf("known %+v", got)
	}
	if again := c.Ask(now, list); again.Subnets() || again.Groups() {
		t.Errorf("asked after the answer: %+v", again)
	}
	c.DoubtSubnet(now, "subnet-1")
	if q = c.Ask(now, list); len(q.SubnetNames) != 1 {
		t.Errorf("refused, one of two: %+v, want the name asked for again", q)
	}
}
