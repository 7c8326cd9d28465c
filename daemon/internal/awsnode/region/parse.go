package region

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"unique"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// maxIndex is far above any instance type's number of ENIs or cards.
const maxIndex = 1023

var (
	instancePattern   = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)
	attachmentPattern = regexp.MustCompile(`^[a-z]+-attach-[0-9a-f]{8,17}$`)
	groupPattern      = regexp.MustCompile(`^sg-[0-9a-f]{8,17}$`)
)

// parser collects the senseless values of one thing of an answer.
type parser struct{ errs []error }

func (p *parser) refuse(key string, value any, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s %q: %s", key, fmt.Sprint(value), fmt.Sprintf(format, args...)))
}

func (p *parser) text(key string, s *string, check func(string) error) string {
	v := aws.ToString(s)
	if err := check(v); err != nil {
		p.refuse(key, v, "%v", err)
	}
	return v
}

// common is text for a value that many things have: they share it.
func (p *parser) common(key string, s *string, check func(string) error) string {
	return shared(aws.String(p.text(key, s, check)))
}

func (p *parser) oneOf(key, value string, known ...string) string {
	if !slices.Contains(known, value) {
		p.refuse(key, value, "want one of %q", known)
	}
	return shared(&value)
}

func (p *parser) index(key string, n *int32) int {
	if n == nil || *n < 0 || *n > maxIndex {
		value := "none"
		if n != nil {
			value = strconv.Itoa(int(*n))
		}
		p.refuse(key, value, "want a number from 0 to %d", maxIndex)
	}
	return int(aws.ToInt32(n))
}

func (p *parser) address(s *string) netip.Addr {
	a, err := netip.ParseAddr(aws.ToString(s))
	if err != nil {
		p.refuse("address", aws.ToString(s), "%v", err)
	}
	return a
}

func (p *parser) prefix(s *string) netip.Prefix {
	n, err := netip.ParsePrefix(aws.ToString(s))
	switch {
	case err != nil:
		p.refuse("prefix", aws.ToString(s), "%v", err)
	case n != n.Masked():
		p.refuse("prefix", n, "has host bits")
	}
	return n
}

func (p *parser) err(what string, id *string) error {
	if len(p.errs) == 0 {
		return nil
	}
	return fmt.Errorf("EC2's answer about %s %q makes no sense: %w", what, aws.ToString(id), errors.Join(p.errs...))
}

func matches(r *regexp.Regexp) func(string) error {
	return func(s string) error {
		if !r.MatchString(s) {
			return fmt.Errorf("want %s", r)
		}
		return nil
	}
}

func given(s string) error {
	if s == "" {
		return errors.New("want a value")
	}
	return nil
}

func isENI(s string) error { _, err := device.ParseENIID(s); return err }

func isSubnet(s string) error { _, err := device.ParseSubnetID(s); return err }

func isMAC(s string) error { _, err := device.ParseMAC(s); return err }

// tagsOf shares equal texts: the ENIs of a cluster have the same keys, and many of the same values.
func tagsOf(set []types.Tag) map[string]string {
	tags := make(map[string]string, len(set))
	for _, t := range set {
		tags[shared(t.Key)] = shared(t.Value)
	}
	return tags
}

func shared(s *string) string { return unique.Make(aws.ToString(s)).Value() }

// interfaceOf never fails: senseless values stand in Unreadable.
func interfaceOf(n *types.NetworkInterface) vpc.Interface {
	var p parser
	i := vpc.Interface{
		ID: p.text("networkInterfaceId", n.NetworkInterfaceId, isENI), MAC: p.text("macAddress", n.MacAddress, isMAC),
		SubnetID: p.common("subnetId", n.SubnetId, isSubnet), VPCID: p.common("vpcId", n.VpcId, given),
		Zone:        p.common("availabilityZone", n.AvailabilityZone, given),
		Status:      p.oneOf("status", string(n.Status), "pending", "available", "associated", "attaching", "in-use", "detaching"),
		Description: aws.ToString(n.Description), SourceDestCheck: aws.ToBool(n.SourceDestCheck), Tags: tagsOf(n.TagSet),
		Type: shared(aws.String(string(n.InterfaceType))),
	}
	for _, g := range n.Groups {
		i.Groups = append(i.Groups, p.common("groupId", g.GroupId, given))
	}
	slices.Sort(i.Groups)
	for _, a := range n.PrivateIpAddresses {
		if v := p.address(a.PrivateIpAddress); aws.ToBool(a.Primary) {
			i.Addresses = slices.Insert(i.Addresses, 0, v)
		} else {
			i.Addresses = append(i.Addresses, v)
		}
	}
	for _, a := range n.Ipv6Addresses {
		i.Addresses = append(i.Addresses, p.address(a.Ipv6Address))
	}
	for _, n := range n.Ipv4Prefixes {
		i.Prefixes = append(i.Prefixes, p.prefix(n.Ipv4Prefix))
	}
	for _, n := range n.Ipv6Prefixes {
		i.Prefixes = append(i.Prefixes, p.prefix(n.Ipv6Prefix))
	}
	if a := n.Attachment; a != nil {
		i.Attachment = &vpc.Attachment{
			ID: p.text("attachmentId", a.AttachmentId, given), Instance: shared(a.InstanceId), DeviceIndex: p.index("deviceIndex", a.DeviceIndex),
			Status:              p.oneOf("attachment.status", string(a.Status), "attaching", "attached", "detaching", "detached"),
			DeleteOnTermination: aws.ToBool(a.DeleteOnTermination),
		}
		if a.NetworkCardIndex != nil { // types with one card may lack it
			i.Attachment.NetworkCard = p.index("networkCardIndex", a.NetworkCardIndex)
		}
		if a.InstanceId != nil { // services such as load balancers attach ENIs to none
			p.text("instanceId", a.InstanceId, matches(instancePattern))
		}
	}
	if err := p.err("network interface", n.NetworkInterfaceId); err != nil {
		unreadable := vpc.Interface{Tags: i.Tags, Unreadable: err}
		if isENI(i.ID) == nil {
			unreadable.ID = i.ID
		}
		return unreadable
	}
	return i
}

func instanceOf(n *types.Instance) (vpc.Instance, error) {
	var p parser
	i := vpc.Instance{
		ID: p.text("instanceId", n.InstanceId, matches(instancePattern)), Type: p.common("instanceType", aws.String(string(n.InstanceType)), given),
		VPCID: shared(n.VpcId), SubnetID: shared(n.SubnetId), Tags: tagsOf(n.Tags),
	}
	if n.Placement != nil {
		i.Zone = shared(n.Placement.AvailabilityZone)
	}
	if n.State != nil {
		i.State = string(n.State.Name)
	}
	i.State = p.oneOf("state", i.State, "pending", "running", "shutting-down", "terminated", "stopping", "stopped")
	return i, p.err("instance", n.InstanceId)
}

func typeOf(n *types.InstanceTypeInfo) (vpc.InstanceType, error) {
	var p parser
	name := aws.String(string(n.InstanceType))
	t := vpc.InstanceType{Name: p.text("instanceType", name, given)}
	info := n.NetworkInfo
	if info == nil {
		info = &types.NetworkInfo{}
	}
	if t.Interfaces = p.index("maximumNetworkInterfaces", info.MaximumNetworkInterfaces); t.Interfaces == 0 && len(p.errs) == 0 {
		p.refuse("maximumNetworkInterfaces", 0, "an instance has one at least")
	}
	for _, c := range info.NetworkCards {
		t.Cards = append(t.Cards, vpc.Card{
			Index: p.index("networkCardIndex", c.NetworkCardIndex), Interfaces: p.index("networkCards.maximumNetworkInterfaces", c.MaximumNetworkInterfaces),
		})
	}
	slices.SortFunc(t.Cards, func(a, b vpc.Card) int { return a.Index - b.Index })
	if len(t.Cards) == 0 {
		t.Cards = []vpc.Card{{Interfaces: t.Interfaces}}
	}
	return t, p.err("instance type", name)
}

func subnetOf(n *types.Subnet) (vpc.Subnet, error) {
	var p parser
	s := vpc.Subnet{
		ID: p.text("subnetId", n.SubnetId, isSubnet), VPCID: p.text("vpcId", n.VpcId, given), Zone: p.text("availabilityZone", n.AvailabilityZone, given),
		Name: tagsOf(n.Tags)["Name"], Free: int(aws.ToInt32(n.AvailableIpAddressCount)),
	}
	if aws.ToString(n.CidrBlock) != "" {
		s.CIDR = p.prefix(n.CidrBlock)
	} else {
		for _, v6 := range n.Ipv6CidrBlockAssociationSet {
			state := v6.Ipv6CidrBlockState
			if !s.CIDR.IsValid() && (state == nil || state.State == types.SubnetCidrBlockStateCodeAssociated) {
				s.CIDR = p.prefix(v6.Ipv6CidrBlock)
			}
		}
		if !s.CIDR.IsValid() && len(p.errs) == 0 {
			p.refuse("cidrBlock", "", "a subnet has a range of IPv4 or IPv6")
		}
	}
	return s, p.err("subnet", n.SubnetId)
}

func groupOf(n *types.SecurityGroup) (vpc.SecurityGroup, error) {
	var p parser
	g := vpc.SecurityGroup{
		ID: p.text("groupId", n.GroupId, matches(groupPattern)), Name: p.text("groupName", n.GroupName, given), VPCID: p.text("vpcId", n.VpcId, given),
	}
	return g, p.err("security group", n.GroupId)
}
