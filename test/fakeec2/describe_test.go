package fakeec2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestDescribeInterfaces(t *testing.T) {
	w := newWorld(t)
	var all []string
	for n := range 12 {
		all = append(all, w.create("", "subnet-1", "slot", fmt.Sprint(n), "cluster", "blue"))
	}
	attachment, err := w.attach(all[3], "i-1", 1, 0)
	w.want(err, "")
	for filters, want := range map[string]string{
		"tag:slot=3":                                  "3",
		"tag:slot=3,5":                                "3 5",
		"tag:slot=3 status=available":                 "",
		"tag:slot=3 status=in-use":                    "3",
		"tag:cluster=blue attachment.instance-id=i-1": "3",
		"attachment.attachment-id=" + attachment:      "3",
		"network-interface-id=" + all[7] + ",eni-0":   "7",
		"tag-key=slot subnet-id=subnet-1 tag:slot=1*": "1 10 11",
		"subnet-id=subnet-2 tag-key=slot":             "",
		"tag:slot=99":                                 "",
	} {
		got, err := w.describe(strings.Fields(filters)...)
		var slots []string
		for _, n := range got {
			slots = append(slots, fmt.Sprint(slices.Index(all, *n.NetworkInterfaceId)))
		}
		if err != nil || strings.Join(slots, " ") != want {
			t.Errorf("%s: %v, %v, want %s", filters, slots, err, want)
		}
	}
	for name, tt := range map[string]struct {
		in   *ec2.DescribeNetworkInterfacesInput
		want string
	}{
		"two ids":        {&ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: all[:2]}, ""},
		"a missing id":   {&ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{all[0], "eni-0"}}, "InvalidNetworkInterfaceID.NotFound"},
		"a malformed id": {&ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{"i-1"}}, "InvalidNetworkInterfaceId.Malformed"},
		"ids and a page": {&ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: all[:2], MaxResults: aws.Int32(5)}, "InvalidParameterCombination"},
		"small page":     {&ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(4)}, "InvalidParameterValue"},
		"large page":     {&ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(1001)}, "InvalidParameterValue"},
		"invented token": {&ec2.DescribeNetworkInterfacesInput{NextToken: aws.String("page-2")}, "InvalidParameterValue"},
		"200 values":     {&ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{{Name: aws.String("tag:a"), Values: make([]string, 200)}}}, ""},
		"201 values": {&ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{{Name: aws.String("tag:a"), Values: make([]string, 201)}}},
			"FilterLimitExceeded"},
		"no value": {&ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{{Name: aws.String("tag:a")}}}, "InvalidParameterValue"},
		"unknown filter": {&ec2.DescribeNetworkInterfacesInput{Filters: []types.Filter{{Name: aws.String("color"), Values: []string{"red"}}}},
			"InvalidParameterValue"},
		"a dry run": {&ec2.DescribeNetworkInterfacesInput{DryRun: aws.Bool(true)}, "DryRunOperation"},
	} {
		_, err := w.sdk.DescribeNetworkInterfaces(t.Context(), tt.in)
		if code(err) != tt.want {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestPages(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, func(c *Config) { c.Shuffle = r.Shuffle })
	var all []string
	for range 23 {
		all = append(all, w.create("", "subnet-1", "cluster", "blue"))
	}
	for _, filters := range [][]types.Filter{nil, {{Name: aws.String("tag:cluster"), Values: []string{"blue"}}}} {
		in := &ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(5), Filters: filters}
		seen := map[string]int{}
		for pages := 0; ; pages++ {
			page, err := w.sdk.DescribeNetworkInterfaces(t.Context(), in)
			if err != nil || len(page.NetworkInterfaces) > 5 {
				t.Fatal(err, len(page.NetworkInterfaces))
			}
			for _, n := range page.NetworkInterfaces {
				seen[*n.NetworkInterfaceId]++
			}
			if pages == 1 { // a change between two pages neither repeats nor hides the others
				w.want(w.delete(all[0]), "")
				all = append(all[1:], w.create("", "subnet-1", "cluster", "blue"))
			}
			if in.NextToken = page.NextToken; in.NextToken == nil {
				break
			}
		}
		for _, id := range all {
			if seen[id] != 1 {
				t.Errorf("seed %d: %s was listed %d times", seed, id, seen[id])
			}
		}
	}
}

func TestDescribeTheWorld(t *testing.T) {
	w := newWorld(t)
	w.create("", "subnet-2")
	ctx := t.Context()
	subnets, err := w.sdk.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{"subnet-2", "subnet-1"}})
	if err != nil || len(subnets.Subnets) != 2 {
		t.Fatal(subnets, err)
	}
	// subnet-2 is a /28: 16 addresses, 5 of the VPC, 1 of i-2, 1 of the new ENI.
	if n := subnets.Subnets[1]; *n.SubnetId != "subnet-2" || *n.AvailableIpAddressCount != 9 || *n.CidrBlock != "10.0.2.0/28" ||
		*n.AvailabilityZone != "eu-central-1b" {
		t.Errorf("%+v", n)
	}
	named, err := w.sdk.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: []types.Filter{{Name: aws.String("tag:Name"), Values: []string{"blue"}},
		{Name: aws.String("vpc-id"), Values: []string{DefaultVPC}}}})
	if err != nil || len(named.Subnets) != 1 || *named.Subnets[0].SubnetId != "subnet-1" || *named.Subnets[0].Tags[0].Value != "blue" {
		t.Errorf("%+v, %v", named, err)
	}
	_, err = w.sdk.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{"subnet-1", "subnet-0"}})
	w.want(err, "InvalidSubnetID.NotFound")

	groups, err := w.sdk.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("group-name"),
		Values: []string{"pods"}}}})
	if err != nil || len(groups.SecurityGroups) != 2 || *groups.SecurityGroups[1].VpcId != "vpc-9" {
		t.Errorf("%+v, %v", groups, err)
	}
	_, err = w.sdk.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{"sg-0"}})
	w.want(err, "InvalidGroup.NotFound")
	_, err = w.sdk.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"pods"}})
	w.want(err, "InvalidGroup.NotFound")

	kinds, err := w.sdk.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"p4d.24xlarge"}})
	if err != nil || *kinds.InstanceTypes[0].NetworkInfo.MaximumNetworkInterfaces != 60 || len(kinds.InstanceTypes[0].NetworkInfo.NetworkCards) != 4 ||
		*kinds.InstanceTypes[0].NetworkInfo.NetworkCards[3].NetworkCardIndex != 3 {
		t.Errorf("%+v, %v", kinds, err)
	}
	_, err = w.sdk.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"c9.huge"}})
	w.want(err, "InvalidInstanceType")

	w.taken("i-1", 2, 0)
	found, err := w.sdk.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{"i-1", "i-1"}})
	if err != nil || len(found.Reservations) != 1 {
		t.Fatal(found, err)
	}
	if i := found.Reservations[0].Instances[0]; i.State.Name != "running" || i.InstanceType != "c5n.xlarge" || len(i.NetworkInterfaces) != 2 ||
		*i.Tags[0].Value != "owned" {
		t.Errorf("%+v", i)
	}
	_, err = w.sdk.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{"i-1", "i-0"}})
	w.want(err, "InvalidInstanceID.NotFound")
}

func TestLag(t *testing.T) {
	const lag = 10 * time.Second
	w := newWorld(t, func(c *Config) { c.Lag, c.DeleteLag, c.CreateLag = lag, time.Minute, 2*time.Second })
	eni := w.create("", "subnet-1", "slot", "a")
	see := func(when string, n int, filters ...string) {
		t.Helper()
		if got, err := w.describe(filters...); err != nil || len(got) != n {
			t.Errorf("%s: %v: %d, %v, want %d", when, filters, len(got), err, n)
		}
	}
	see("at once", 0, "tag:slot=a")
	if _, err := w.byID(eni); code(err) != "InvalidNetworkInterfaceID.NotFound" {
		t.Error(err)
	}
	_, err := w.attach(eni, "i-1", 1, 0)
	w.want(err, "InvalidNetworkInterfaceID.NotFound")
	w.pass(2 * time.Second)
	attachment, err := w.attach(eni, "i-1", 1, 0)
	w.want(err, "")
	w.pass(8 * time.Second)
	see("after the lag of the creation", 1, "tag:slot=a", "status=available")
	see("after the lag of the creation", 0, "attachment.instance-id=i-1", "tag-key=slot")
	w.pass(2 * time.Second)
	see("after the lag of the attachment", 1, "attachment.instance-id=i-1", "tag-key=slot")
	w.want(w.detach(attachment, false), "")
	w.want(w.delete(eni), "")
	see("right after the deletion", 1, "attachment.instance-id=i-1", "tag-key=slot")
	w.pass(lag)
	see("after the lag of the detachment", 0, "attachment.instance-id=i-1", "tag-key=slot")
	see("after the lag of the detachment", 1, "tag:slot=a")
	w.pass(50 * time.Second)
	see("after the lag of the deletion", 0, "tag:slot=a")
	see("after the lag of the deletion", 0, "tag-key=slot", "subnet-id=subnet-1")
}
