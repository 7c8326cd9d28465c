package fakeec2

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

func TestCreate(t *testing.T) {
	many := func(n int) (kv []string) {
		for i := range n {
			kv = append(kv, fmt.Sprint("key", i), "v")
		}
		return kv
	}
	for name, tt := range map[string]struct {
		edit func(*ec2.CreateNetworkInterfaceInput)
		want string
	}{
		"plain":           {func(*ec2.CreateNetworkInterfaceInput) {}, ""},
		"groups":          {func(in *ec2.CreateNetworkInterfaceInput) { in.Groups = []string{"sg-1", "sg-2"} }, ""},
		"unknown group":   {func(in *ec2.CreateNetworkInterfaceInput) { in.Groups = []string{"sg-0"} }, "InvalidSecurityGroupID.NotFound"},
		"group elsewhere": {func(in *ec2.CreateNetworkInterfaceInput) { in.Groups = []string{"sg-9"} }, "InvalidParameter"},
		"too many groups": {func(in *ec2.CreateNetworkInterfaceInput) { in.Groups = strings.Fields("sg-1 sg-2 sg-3 sg-4 sg-5 sg-6") },
			"SecurityGroupsPerInterfaceLimitExceeded"},
		"unknown subnet": {func(in *ec2.CreateNetworkInterfaceInput) { in.SubnetId = aws.String("subnet-0") }, "InvalidSubnetID.NotFound"},
		"no subnet":      {func(in *ec2.CreateNetworkInterfaceInput) { in.SubnetId = aws.String("") }, "MissingParameter"},
		"full subnet": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.SubnetId, in.SecondaryPrivateIpAddressCount = aws.String("subnet-2"), aws.Int32(11)
		}, "InsufficientFreeAddressesInSubnet"},
		"no whole block": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.SubnetId, in.Ipv4PrefixCount = aws.String("subnet-2"), aws.Int32(1)
		}, "InsufficientCidrBlocks"},
		"both of a family": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.SecondaryPrivateIpAddressCount, in.Ipv4PrefixCount = aws.Int32(1), aws.Int32(1)
		}, "InvalidParameterCombination"},
		"both of IPv6": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.Ipv6AddressCount, in.Ipv6PrefixCount = aws.Int32(1), aws.Int32(1)
		}, "InvalidParameterCombination"},
		"no IPv6": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.SubnetId, in.Ipv6AddressCount = aws.String("subnet-2"), aws.Int32(1)
		}, "InvalidParameterValue"},
		"other resource": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: tags("a", "b")[0].Tags}}
		}, "InvalidParameterValue"},
		"no tag":       {func(in *ec2.CreateNetworkInterfaceInput) { in.TagSpecifications = tags() }, "InvalidParameterValue"},
		"reserved tag": {func(in *ec2.CreateNetworkInterfaceInput) { in.TagSpecifications = tags("aws:x", "y") }, "InvalidParameterValue"},
		"tag twice":    {func(in *ec2.CreateNetworkInterfaceInput) { in.TagSpecifications = tags("x", "y", "x", "z") }, "InvalidParameterValue"},
		"50 tags":      {func(in *ec2.CreateNetworkInterfaceInput) { in.TagSpecifications = tags(many(50)...) }, ""},
		"51 tags":      {func(in *ec2.CreateNetworkInterfaceInput) { in.TagSpecifications = tags(many(51)...) }, "TagLimitExceeded"},
		"type":         {func(in *ec2.CreateNetworkInterfaceInput) { in.InterfaceType = "branch" }, "InvalidParameterValue"},
		"long token":   {func(in *ec2.CreateNetworkInterfaceInput) { in.ClientToken = aws.String(strings.Repeat("x", 65)) }, "InvalidParameterValue"},
		"tracking": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.ConnectionTrackingSpecification = &types.ConnectionTrackingSpecificationRequest{TcpEstablishedTimeout: aws.Int32(60)}
		}, ""},
		"short tracking": {func(in *ec2.CreateNetworkInterfaceInput) {
			in.ConnectionTrackingSpecification = &types.ConnectionTrackingSpecificationRequest{UdpTimeout: aws.Int32(29)}
		}, "InvalidParameterValue"},
		"dry": {func(in *ec2.CreateNetworkInterfaceInput) { in.DryRun = aws.Bool(true) }, "DryRunOperation"},
		"dry without group": {func(in *ec2.CreateNetworkInterfaceInput) { in.DryRun, in.Groups = aws.Bool(true), []string{"sg-0"} },
			"InvalidSecurityGroupID.NotFound"},
	} {
		w := newWorld(t)
		before := len(w.All())
		in := &ec2.CreateNetworkInterfaceInput{SubnetId: aws.String("subnet-1")}
		tt.edit(in)
		_, err := w.sdk.CreateNetworkInterface(t.Context(), in)
		if code(err) != tt.want || (tt.want == "") != (len(w.All()) == before+1) || (tt.want == "") != (w.Tally("CreateNetworkInterface").Mutating == 1) {
			t.Errorf("%s: %v, %d ENIs, want %q", name, err, len(w.All())-before, tt.want)
		}
	}
}

func TestAddressesOfANewENI(t *testing.T) {
	w := newWorld(t)
	out, err := w.sdk.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: aws.String("subnet-1"), SecondaryPrivateIpAddressCount: aws.Int32(2), Ipv6PrefixCount: aws.Int32(1), Groups: []string{"sg-2"},
		Description: aws.String("a <b>"),
	})
	if err != nil {
		t.Fatal(err)
	}
	n := out.NetworkInterface
	var got []string
	for _, a := range n.PrivateIpAddresses {
		got = append(got, *a.PrivateIpAddress)
	}
	// 10.0.1.4 and 10.0.1.5 are of the instances in that subnet.
	if want := "10.0.1.6 10.0.1.7 10.0.1.8"; strings.Join(got, " ") != want || *n.PrivateIpAddress != "10.0.1.6" ||
		*n.Ipv6Prefixes[0].Ipv6Prefix != "2001:db8:1:0:1::/80" {
		t.Errorf("%v, %v, %v; want %s", got, *n.PrivateIpAddress, *n.Ipv6Prefixes[0].Ipv6Prefix, want)
	}
	if *n.Groups[0].GroupId != "sg-2" || *n.Groups[0].GroupName != "more" || *n.Description != "a <b>" || !*n.SourceDestCheck || n.Status != "pending" ||
		*n.VpcId != DefaultVPC || *n.AvailabilityZone != DefaultZone || n.InterfaceType != "interface" || n.Attachment != nil {
		t.Errorf("%+v", n)
	}
	w.want(w.delete(*n.NetworkInterfaceId), "")
	again := w.create("", "subnet-1")
	if e := w.ENI(again); e.IPv4[0] != netip.MustParseAddr("10.0.1.6") || len(e.Groups) != 1 {
		t.Errorf("the next ENI: %+v", e)
	}
}

func TestToken(t *testing.T) {
	w := newWorld(t)
	eni := w.create("t-1", "subnet-1", "slot", "a")
	_, err := w.sdk.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{
		ClientToken: aws.String("t-1"), SubnetId: aws.String("subnet-1"), TagSpecifications: tags("slot", "b"),
	})
	w.want(err, "IdempotentParameterMismatch")
	if other := w.create("t-2", "subnet-1", "slot", "a"); other == eni {
		t.Error("another token made the same ENI")
	}
}

func TestAttach(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare  func(w *world)
		instance string
		index    int32
		card     []int32
		want     string
	}{
		"index 1":             {nil, "i-1", 1, []int32{0}, ""},
		"index 0 taken":       {nil, "i-1", 0, []int32{0}, "InvalidParameterValue"},
		"other zone":          {nil, "i-2", 1, []int32{0}, "InvalidParameterCombination"},
		"other VPC":           {nil, "i-9", 1, []int32{0}, "InvalidParameterCombination"},
		"no such instance":    {nil, "i-0", 1, []int32{0}, "InvalidInstanceID.NotFound"},
		"no instance's id":    {nil, "node", 1, []int32{0}, "InvalidInstanceID.Malformed"},
		"no such card":        {nil, "i-1", 1, []int32{1}, "InvalidParameterValue"},
		"card 3":              {nil, "i-3", 0, []int32{3}, ""},
		"stopped":             {func(w *world) { w.StopInstance("i-1") }, "i-1", 1, []int32{0}, ""},
		"terminated":          {func(w *world) { w.Terminate("i-1") }, "i-1", 1, []int32{0}, "IncorrectInstanceState"},
		"forgotten":           {func(w *world) { w.Terminate("i-1"); w.pass(time.Hour) }, "i-1", 1, []int32{0}, "InvalidInstanceID.NotFound"},
		"index on other card": {func(w *world) { w.taken("i-3", 1, 2) }, "i-3", 1, []int32{0}, ""},
		"the same, no card":   {func(w *world) { w.taken("i-3", 1, 2) }, "i-3", 1, nil, "InvalidParameterValue"},
		"limit of the type": {func(w *world) { w.taken("i-1", 1, 0); w.taken("i-1", 2, 0); w.taken("i-1", 3, 0) }, "i-1", 4, []int32{0},
			"AttachmentLimitExceeded"},
	} {
		w := newWorld(t)
		if tt.prepare != nil {
			tt.prepare(w)
		}
		eni := w.create("", "subnet-1")
		_, err := w.attach(eni, tt.instance, tt.index, tt.card...)
		if code(err) != tt.want || (tt.want == "") != (w.ENI(eni).Instance != "") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func (w *world) taken(instance string, index, card int32) {
	w.Helper()
	if _, err := w.attach(w.create("", "subnet-1"), instance, index, card); err != nil {
		w.Fatal(err)
	}
}

func TestAttachedAndForeign(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.ENIs = []ENI{{ID: "eni-lb", SubnetID: "subnet-1", RequesterManaged: true}, {ID: "eni-nat", SubnetID: "subnet-1", RequesterManaged: true,
			Instance: "i-1", DeviceIndex: 3}}
		c.CreateTakes = time.Second
	})
	eni := w.create("", "subnet-1")
	_, err := w.attach(eni, "i-1", 1, 0)
	w.want(err, "IncorrectState")
	w.pass(time.Second)
	_, err = w.attach(eni, "i-1", 1, 0)
	w.want(err, "")
	_, err = w.attach(eni, "i-1", 1, 0)
	w.want(err, "InvalidNetworkInterface.InUse")
	_, err = w.attach("eni-lb", "i-1", 2, 0)
	w.want(err, "OperationNotPermitted")
	w.want(w.delete("eni-lb"), "OperationNotPermitted")
	w.want(w.detach(w.ENI("eni-nat").Attachment(), true), "OperationNotPermitted")
	_, err = w.sdk.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: aws.String("eni-lb"),
		Groups: []string{"sg-1"}})
	w.want(err, "OperationNotPermitted")
	primary, err := w.describe("attachment.instance-id=i-1", "attachment.device-index=0")
	if err != nil || len(primary) != 1 {
		t.Fatal(primary, err)
	}
	w.want(w.detach(*primary[0].Attachment.AttachmentId, false), "OperationNotPermitted")
}

func TestEnaExpress(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Instances = append(c.Instances, Instance{ID: "i-5", Type: "c6in.16xlarge", SubnetID: "subnet-1"})
	})
	for instance, want := range map[string]string{"i-1": "InvalidParameterCombination", "i-5": ""} {
		eni := w.create("", "subnet-1")
		_, err := w.sdk.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: &eni, InstanceId: &instance, DeviceIndex: aws.Int32(1), NetworkCardIndex: aws.Int32(0),
			EnaSrdSpecification: &types.EnaSrdSpecification{EnaSrdEnabled: aws.Bool(true)},
		})
		w.want(err, want)
		if n, err := w.byID(eni); err != nil || want == "" && !*n.Attachment.EnaSrdSpecification.EnaSrdEnabled {
			t.Errorf("%+v, %v", n, err)
		}
	}
}

func TestDetachStuck(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Stuck = func(e ENI) bool { return e.DeviceIndex == 2 } })
	eni := w.create("", "subnet-1")
	attachment, err := w.attach(eni, "i-1", 2, 0)
	w.want(err, "")
	w.want(w.detach(attachment, false), "")
	w.pass(24 * time.Hour)
	if got := w.ENI(eni).AttachmentStatus; got != "detaching" {
		t.Errorf("after a day it is %s", got)
	}
	w.want(w.detach(attachment, true), "")
	if e := w.ENI(eni); e.Instance != "" {
		t.Errorf("after Force: %+v", e)
	}
	if events := w.Events(); !events[len(events)-1].Force || events[len(events)-2].Force {
		t.Errorf("%+v", events)
	}
}

func TestForceKeepsIndex(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		w := newWorld(t, func(c *Config) { c.ForceKeepsIndex = keeps })
		attachment, err := w.attach(w.create("", "subnet-1"), "i-1", 1, 0)
		w.want(err, "")
		w.want(w.detach(attachment, true), "")
		next, want := w.create("", "subnet-1"), ""
		if keeps {
			want = "InvalidParameterValue"
		}
		_, err = w.attach(next, "i-1", 1, 0)
		w.want(err, want)
		if !keeps {
			continue
		}
		_, err = w.attach(w.create("", "subnet-1"), "i-1", 2, 0)
		w.want(err, "")
		w.StopInstance("i-1")
		w.StartInstance("i-1")
		_, err = w.attach(next, "i-1", 1, 0)
		w.want(err, "")
	}
}

func TestModify(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(in *ec2.ModifyNetworkInterfaceAttributeInput, attachment string)
		want string
		done func(ENI) bool
	}{
		"delete on termination": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, a string) {
			in.Attachment = &types.NetworkInterfaceAttachmentChanges{AttachmentId: &a, DeleteOnTermination: aws.Bool(true)}
		}, "", func(e ENI) bool { return e.DeleteOnTermination }},
		"other attachment": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) {
			in.Attachment = &types.NetworkInterfaceAttachmentChanges{AttachmentId: aws.String("eni-attach-0"), DeleteOnTermination: aws.Bool(true)}
		}, "InvalidAttachmentID.NotFound", nil},
		"no attachment": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) {
			in.Attachment = &types.NetworkInterfaceAttachmentChanges{DeleteOnTermination: aws.Bool(true)}
		}, "MissingParameter", nil},
		"groups": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) { in.Groups = []string{"sg-2", "sg-1"} }, "",
			func(e ENI) bool { return slices.Equal(e.Groups, []string{"sg-2", "sg-1"}) }},
		"groups of another VPC": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) { in.Groups = []string{"sg-9"} }, "InvalidParameter", nil},
		"check": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) {
			in.SourceDestCheck = &types.AttributeBooleanValue{Value: aws.Bool(false)}
		}, "", func(e ENI) bool { return e.NoSourceDestCheck }},
		"description": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) {
			in.Description = &types.AttributeValue{Value: aws.String("x")}
		}, "", func(e ENI) bool { return e.Description == "x" }},
		"tracking": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) {
			in.ConnectionTrackingSpecification = &types.ConnectionTrackingSpecificationRequest{UdpTimeout: aws.Int32(30)}
		}, "", func(e ENI) bool { return e.Tracking.UDP == 30 }},
		"two": {func(in *ec2.ModifyNetworkInterfaceAttributeInput, _ string) {
			in.Groups, in.Description = []string{"sg-1"}, &types.AttributeValue{Value: aws.String("x")}
		}, "InvalidParameterCombination", nil},
		"none": {func(*ec2.ModifyNetworkInterfaceAttributeInput, string) {}, "MissingParameter", nil},
	} {
		w := newWorld(t)
		eni := w.create("", "subnet-1")
		attachment, err := w.attach(eni, "i-1", 1, 0)
		w.want(err, "")
		before := w.ENI(eni)
		in := &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &eni}
		tt.edit(in, attachment)
		_, err = w.sdk.ModifyNetworkInterfaceAttribute(t.Context(), in)
		after := w.ENI(eni)
		if code(err) != tt.want || tt.done != nil && (tt.done(before) || !tt.done(after)) || tt.done == nil && !slices.Equal(after.Groups, before.Groups) {
			t.Errorf("%s: %v, want %q; %+v", name, err, tt.want, after)
		}
	}
}

func TestCreateTags(t *testing.T) {
	w := newWorld(t)
	eni := w.create("", "subnet-1", "a", "1", "b", "2")
	set := func(id string, kv ...string) error {
		_, err := w.sdk.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: tags(kv...)[0].Tags})
		return err
	}
	w.want(set(eni, "b", "3", "c", ""), "")
	if want := map[string]string{"a": "1", "b": "3", "c": ""}; !maps.Equal(w.ENI(eni).Tags, want) {
		t.Errorf("%v, want %v", w.ENI(eni).Tags, want)
	}
	w.want(set("eni-0", "a", "b"), "InvalidNetworkInterfaceID.NotFound")
	w.want(set("i-1", "a", "b"), "InvalidNetworkInterfaceId.Malformed")
	w.want(set(eni, "aws:a", "b"), "InvalidParameterValue")
	for filter, n := range map[string]int{"tag:b=3": 1, "tag:b=2": 0, "tag:c=": 1, "tag-key=a": 1, "tag-key=z": 0, "tag:b=?": 1, "tag:b=2,3": 1,
		`tag:b=\?`: 0} {
		if got, err := w.describe(filter); err != nil || len(got) != n {
			t.Errorf("%s: %d, %v, want %d", filter, len(got), err, n)
		}
	}
}
