package region

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

const (
	cluster   = "0b6c2f3e-1111-4222-8333-444455556666"
	subnet1   = "subnet-00000001"
	subnet2   = "subnet-00000002"
	group1    = "sg-00000001"
	group2    = "sg-00000002"
	instance1 = "i-00000001"
	instance2 = "i-00000002"
)

func account() fakeec2.Config {
	owned := map[string]string{"kubernetes.io/cluster/blue": "owned"}
	return fakeec2.Config{
		Subnets: []fakeec2.Subnet{
			{ID: subnet1, IPv4: netip.MustParsePrefix("10.0.0.0/20"), IPv6: netip.MustParsePrefix("2001:db8:1::/64"), Tags: map[string]string{"Name": "blue*"}},
			{ID: subnet2, IPv4: netip.MustParsePrefix("10.0.16.0/24"), Zone: "eu-central-1b", Tags: map[string]string{"Name": "blueish"}},
		},
		Groups: []fakeec2.Group{{ID: group1, Name: "pods"}, {ID: group2, Name: "more"}},
		Instances: []fakeec2.Instance{
			{ID: instance1, Type: "m5.4xlarge", SubnetID: subnet1, Tags: owned},
			{ID: instance2, Type: "p4d.24xlarge", SubnetID: subnet1, Tags: owned},
		},
		Region: "eu-central-1",
	}
}

// client is one of an account, over HTTP, with short waits.
func client(t *testing.T, account fakeec2.Config, cfg Config) (*Client, *fakeec2.Server) {
	t.Helper()
	s := fakeec2.Start(t, account)
	t.Setenv("AWS_REGION", "eu-central-1")
	if cfg.QPS == 0 {
		cfg.QPS, cfg.Burst = 1000, 1000
	}
	c := New(cfg)
	c.firstWait = time.Millisecond
	return c, s
}

func tags(slot string) map[string]string {
	return map[string]string{slots.TagCluster: cluster, slots.TagSlot: slot, slots.TagName: "a"}
}

func want[T any](t *testing.T, what string, got, want T, err error) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); err != nil || diff != "" {
		t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
	}
}

func code(err error) string {
	var e *vpc.EC2Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return "no EC2Error"
}

// TestLife: an ENI is made, attached, changed, detached and deleted; each call's fields arrive.
func TestLife(t *testing.T) {
	c, s := client(t, account(), Config{})
	ctx := t.Context()
	made, err := c.Create(ctx, vpc.Creation{
		Token: "slot-1", SubnetID: subnet1, Description: "for a & b", Groups: []string{group2, group1}, Tags: tags("one"), SecondaryAddresses: 2, IPv6Addresses: 1,
		Tracking: vpc.Tracking{TCPEstablished: 350, UDPStream: 120, UDPTimeout: 40},
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Create(ctx, vpc.Creation{
		Token: "slot-1", SubnetID: subnet1, Description: "for a & b", Groups: []string{group2, group1}, Tags: tags("one"), SecondaryAddresses: 2, IPv6Addresses: 1,
		Tracking: vpc.Tracking{TCPEstablished: 350, UDPStream: 120, UDPTimeout: 40},
	})
	if err != nil || again.ID != made.ID {
		t.Errorf("the same token: %s, %v, want %s", again.ID, err, made.ID)
	}
	if got := s.ENI(made.ID); got.Tracking != (fakeec2.Tracking{TCPEstablished: 350, UDPStream: 120, UDP: 40}) {
		t.Errorf("connection tracking: %+v", got.Tracking)
	}
	expected := vpc.Interface{
		ID: made.ID, MAC: s.ENI(made.ID).MAC, SubnetID: subnet1, VPCID: fakeec2.DefaultVPC, Zone: fakeec2.DefaultZone, Status: "available", Description: "for a & b",
		Groups: []string{group1, group2}, SourceDestCheck: true, Tags: tags("one"), Type: "interface",
		Addresses: slices.Concat(s.ENI(made.ID).IPv4, s.ENI(made.ID).IPv6),
	}
	if len(expected.Addresses) != 4 {
		t.Errorf("addresses: %v", expected.Addresses)
	}
	got, err := c.Interface(ctx, made.ID)
	want(t, "created", got, expected, err)

	attachment, err := c.Attach(ctx, vpc.Joining{ENI: made.ID, Instance: instance2, DeviceIndex: 3, NetworkCard: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.SetDeleteOnTermination(ctx, made.ID, attachment, true), c.SetGroups(ctx, made.ID, []string{group2}),
		c.SetSourceDestCheck(ctx, made.ID, false), c.SetTags(ctx, made.ID, map[string]string{"more": "x & y", slots.TagName: "b"})); err != nil {
		t.Fatal(err)
	}
	expected.Attachment = &vpc.Attachment{ID: attachment, Instance: instance2, DeviceIndex: 3, NetworkCard: 2, Status: "attached", DeleteOnTermination: true}
	expected.Status, expected.Groups, expected.SourceDestCheck = "in-use", []string{group2}, false
	expected.Tags["more"], expected.Tags[slots.TagName] = "x & y", "b"
	all, err := c.BySlot(ctx, "one")
	want(t, "by slot", all, []vpc.Interface{expected}, err)
	all, err = c.ByInstance(ctx, instance2)
	all = slices.DeleteFunc(all, func(i vpc.Interface) bool { return i.Attachment.DeviceIndex == 0 })
	want(t, "by instance", all, []vpc.Interface{expected}, err)

	if err := c.Delete(ctx, made.ID); code(err) != "InvalidNetworkInterface.InUse" && code(err) != "InvalidParameterValue" {
		t.Errorf("delete an attached one: %v", err)
	}
	if err := errors.Join(c.Detach(ctx, attachment, false), c.Delete(ctx, made.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Interface(ctx, made.ID); code(err) != "InvalidNetworkInterfaceID.NotFound" {
		t.Errorf("after its end: %v", err)
	}
	if err := c.Delete(ctx, made.ID); code(err) != "InvalidNetworkInterfaceID.NotFound" {
		t.Errorf("delete again: %v", err)
	}
	if n := c.Mutations(); n != 11 {
		t.Errorf("%d mutations, want 11", n)
	}
}

func TestLooks(t *testing.T) {
	c, _ := client(t, account(), Config{})
	ctx := t.Context()
	blue := vpc.Subnet{ID: subnet1, VPCID: fakeec2.DefaultVPC, Zone: fakeec2.DefaultZone, Name: "blue*", CIDR: netip.MustParsePrefix("10.0.0.0/20")}
	subnets, err := c.Subnets(ctx, []string{subnet1, "subnet-0000dead"}, []string{"blue*", "none"})
	for i := range subnets {
		if subnets[i].Free < 4000 {
			t.Errorf("free addresses: %d", subnets[i].Free)
		}
		subnets[i].Free = 0
	}
	want(t, "subnets", subnets, []vpc.Subnet{blue}, err)
	groups, err := c.SecurityGroups(ctx, []string{group2, group2}, []string{"pods", "more"})
	want(t, "groups", groups, []vpc.SecurityGroup{{ID: group1, Name: "pods", VPCID: fakeec2.DefaultVPC},
		{ID: group2, Name: "more", VPCID: fakeec2.DefaultVPC}}, err)
	instance, err := c.Instance(ctx, instance1)
	want(t, "instance", instance, vpc.Instance{ID: instance1, Type: "m5.4xlarge", VPCID: fakeec2.DefaultVPC, SubnetID: subnet1, Zone: fakeec2.DefaultZone,
		State: "running", Tags: map[string]string{"kubernetes.io/cluster/blue": "owned"}}, err)
	kind, err := c.InstanceType(ctx, "p4d.24xlarge")
	want(t, "type", kind, vpc.InstanceType{Name: "p4d.24xlarge", Interfaces: 60, Cards: []vpc.Card{{Index: 0, Interfaces: 15},
		{Index: 1, Interfaces: 15}, {Index: 2, Interfaces: 15}, {Index: 3, Interfaces: 15}}}, err)
	for call, got := range map[string]string{
		noInstance:                            func() string { _, err := c.Instance(ctx, "i-0000dead"); return code(err) }(),
		noType:                                func() string { _, err := c.InstanceType(ctx, "m5.tiny"); return code(err) }(),
		"InvalidInstanceID.Malformed":         func() string { _, err := c.Instance(ctx, "i-*"); return code(err) }(),
		"InvalidNetworkInterfaceID.Malformed": func() string { _, err := c.Interface(ctx, "eni-*"); return code(err) }(),
	} {
		if got != call {
			t.Errorf("want %s, got %q", call, got)
		}
	}
}

// TestTypesAreAskedOnce: an instance type never changes.
func TestTypesAreAskedOnce(t *testing.T) {
	c, s := client(t, account(), Config{})
	for range 3 {
		if _, err := c.InstanceType(t.Context(), "m5.4xlarge"); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Tally(describeTypes).Calls; n != 1 {
		t.Errorf("%d calls", n)
	}
}

// TestPages: a query reads all its pages, each ENI once.
func TestPages(t *testing.T) {
	cfg := account()
	for n := range 2300 {
		slot := "other"
		if n%23 == 0 {
			slot = "mine"
		}
		cfg.ENIs = append(cfg.ENIs, fakeec2.ENI{ID: fmt.Sprintf("eni-%08x", n+1), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255), SubnetID: subnet1,
			Tags: tags(slot)})
	}
	c, s := client(t, cfg, Config{})
	all, err := c.Interfaces(t.Context(), vpc.Query{Tags: map[string][]string{slots.TagCluster: {cluster}}, Status: "available"})
	if sorted := slices.IsSortedFunc(all, cmpID); err != nil || len(all) != 2300 || !sorted || s.Tally(describeInterfaces).Calls != 3 {
		t.Errorf("%d ENIs in %d calls, %v", len(all), s.Tally(describeInterfaces).Calls, err)
	}
	for name, q := range map[string]vpc.Query{
		"slot":          {Tags: map[string][]string{slots.TagSlot: {"mine", "none"}, slots.TagCluster: nil}, Subnets: []string{subnet1, subnet2}},
		"other cluster": {Tags: map[string][]string{slots.TagCluster: {"x"}}},
		"attached":      {Instances: []string{instance1}, Tags: map[string][]string{slots.TagSlot: nil}},
		"no wildcard":   {Tags: map[string][]string{slots.TagSlot: {"m*", "min?"}}},
		"other subnet":  {Subnets: []string{subnet2}}, "in use": {Status: "in-use", Tags: map[string][]string{slots.TagSlot: nil}},
	} {
		n := 0
		if name == "slot" {
			n = 100
		}
		if got, err := c.Interfaces(t.Context(), q); err != nil || len(got) != n {
			t.Errorf("%s: %d ENIs, %v, want %d", name, len(got), err, n)
		}
	}
}

func cmpID(a, b vpc.Interface) int {
	if a.ID < b.ID {
		return -1
	}
	return 1
}

// TestBatchOverHTTP: 450 ids take three calls; each caller has its own answer, absent ones their own error.
func TestBatchOverHTTP(t *testing.T) {
	cfg := account()
	for n := range 400 {
		cfg.ENIs = append(cfg.ENIs, fakeec2.ENI{ID: fmt.Sprintf("eni-%08x", n), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255), SubnetID: subnet1,
			Tags: tags(fmt.Sprint(n / 2))})
	}
	c, s := client(t, cfg, Config{})
	var wg sync.WaitGroup
	for n := range 450 {
		wg.Go(func() {
			id := fmt.Sprintf("eni-%08x", n)
			got, err := c.Interface(t.Context(), id)
			if n < 400 && (err != nil || got.ID != id) || n >= 400 && code(err) != noInterface {
				t.Errorf("%s: %s, %v", id, got.ID, err)
			}
		})
		wg.Go(func() {
			got, err := c.BySlot(t.Context(), fmt.Sprint(n))
			if err != nil || n < 200 && len(got) != 2 || n >= 200 && len(got) != 0 {
				t.Errorf("slot %d: %d ENIs, %v", n, len(got), err)
			}
		})
	}
	wg.Wait()
	if n := s.Tally(describeInterfaces).Calls; n < 6 || n > 8 {
		t.Errorf("%d calls for 450 ids and 450 slots", n)
	}
}

// TestFilterIsExact: names come from users.
func TestFilterIsExact(t *testing.T) {
	want(t, "filter", filter("tag:Name", `a*b?c\d`, "plain").Values, []string{`a\*b\?c\\d`, "plain"}, nil)
}
