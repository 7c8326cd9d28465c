package region

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Sample looks for resources to ask for permissions with: an ENI of the cluster, best an attached one; without any, subnet and group of the
// instance's primary ENI. Both arguments may be "".
func (c *Client) Sample(ctx context.Context, cluster, instance string) (vpc.Sample, error) {
	s := vpc.Sample{Cluster: cluster, Instance: instance}
	var enis []vpc.Interface
	var err error
	if cluster != "" {
		if enis, err = c.Interfaces(ctx, vpc.Query{Tags: map[string][]string{slots.TagCluster: {cluster}}}); err != nil {
			return s, err
		}
	}
	for _, e := range enis {
		if attached := e.Attachment != nil && e.Attachment.Status == "attached"; e.Unreadable == nil && (attached && s.Attachment == "" || s.ENI == "") {
			s.ENI = e.ID
			take(&s, e)
		}
	}
	if s.Subnet != "" || instance == "" {
		return s, nil
	}
	enis, err = c.ByInstance(ctx, instance)
	for _, e := range enis {
		if e.Attachment != nil && e.Attachment.DeviceIndex == 0 && e.Attachment.NetworkCard == 0 {
			take(&s, e)
			s.Attachment = "" // of an ENI that is not the cluster's
		}
	}
	return s, err
}

// take notes an ENI's place, and its attachment if it is attached.
func take(s *vpc.Sample, e vpc.Interface) {
	s.Subnet = e.SubnetID
	if len(e.Groups) > 0 {
		s.Group = e.Groups[0]
	}
	if e.Attachment != nil && e.Attachment.Status == "attached" && e.Attachment.Instance != "" {
		s.Attachment, s.Instance = e.Attachment.ID, e.Attachment.Instance
	}
}

// dryRun is one question: needs are the sample's resources in it.
type dryRun struct {
	action string
	needs  []string
	ask    func() *vpc.EC2Error
}

func dry[In, Out any](ctx context.Context, c *Client, action string, pick func(*calls) call[In, Out], in *In, needs ...string) dryRun {
	return dryRun{action, needs, func() *vpc.EC2Error {
		_, err := once(ctx, c, action, action, func(conn *connection) call[In, Out] { return pick(conn.dry) }, in)
		switch {
		case err == nil:
			return unasked(fmt.Errorf("%s: %w", action, errNotHonoured))
		case err.Code == "DryRunOperation":
			return nil
		}
		return err
	}}
}

var errNotHonoured = errors.New("EC2 has not honoured the dry run")

func unasked(err error) *vpc.EC2Error {
	return &vpc.EC2Error{Kind: vpc.EC2Unknown, Service: "EC2", Err: err}
}

// Permissions asks EC2 for the right to each action by a dry run with the sample's resources. CreateTags is asked together with Create, which
// is the only call that needs it. An action whose resources the sample lacks is unknown. A service that ignores dry runs is asked for none that
// would change something.
func (c *Client) Permissions(ctx context.Context, s vpc.Sample) (all []vpc.Permission) {
	honoured := true
	for _, q := range c.dryLooks(ctx) {
		err := q.ask()
		honoured = honoured && (err == nil || !errors.Is(err, errNotHonoured))
		all = append(all, vpc.Permission{Action: q.action, Err: err})
	}
	for _, q := range c.dryChanges(ctx, s) {
		p := vpc.Permission{Action: q.action}
		switch lacking := lacks(q.needs); {
		case lacking:
			p.Err = unasked(fmt.Errorf("%s: nobody can ask yet: no ENI, instance, subnet or group of the cluster is known", q.action))
		case !honoured:
			p.Err = unasked(fmt.Errorf("%s: not asked: %w", q.action, errNotHonoured))
		default:
			p.Err = q.ask()
		}
		if last := len(all) - 1; all[last].Action == q.action { // two questions for one action
			if all[last].Err == nil {
				all[last].Err = p.Err
			}
			continue
		}
		all = append(all, p)
	}
	return all
}

func lacks(needs []string) bool {
	for _, n := range needs {
		if n == "" {
			return true
		}
	}
	return false
}

func (c *Client) dryLooks(ctx context.Context) []dryRun {
	few := aws.Int32(5)
	return []dryRun{
		dry(ctx, c, describeInterfaces, func(c *calls) call[ec2.DescribeNetworkInterfacesInput, ec2.DescribeNetworkInterfacesOutput] {
			return c.interfaces
		}, &ec2.DescribeNetworkInterfacesInput{MaxResults: few}),
		dry(ctx, c, describeInstances, func(c *calls) call[ec2.DescribeInstancesInput, ec2.DescribeInstancesOutput] { return c.instances },
			&ec2.DescribeInstancesInput{MaxResults: few}),
		dry(ctx, c, describeTypes, func(c *calls) call[ec2.DescribeInstanceTypesInput, ec2.DescribeInstanceTypesOutput] {
			return c.instanceTypes
		},
			&ec2.DescribeInstanceTypesInput{MaxResults: few}),
		dry(ctx, c, describeSubnets, func(c *calls) call[ec2.DescribeSubnetsInput, ec2.DescribeSubnetsOutput] { return c.subnets },
			&ec2.DescribeSubnetsInput{MaxResults: few}),
		dry(ctx, c, describeGroups, func(c *calls) call[ec2.DescribeSecurityGroupsInput, ec2.DescribeSecurityGroupsOutput] {
			return c.groups
		},
			&ec2.DescribeSecurityGroupsInput{MaxResults: few}),
	}
}

func (c *Client) dryChanges(ctx context.Context, s vpc.Sample) []dryRun {
	modify := func(c *calls) call[ec2.ModifyNetworkInterfaceAttributeInput, ec2.ModifyNetworkInterfaceAttributeOutput] {
		return c.modify
	}
	eni := aws.String(s.ENI)
	return []dryRun{
		dry(ctx, c, createInterface, func(c *calls) call[ec2.CreateNetworkInterfaceInput, ec2.CreateNetworkInterfaceOutput] {
			return c.create
		},
			creation(vpc.Creation{SubnetID: s.Subnet, Groups: []string{s.Group}, Tags: map[string]string{slots.TagCluster: s.Cluster}}),
			s.Subnet, s.Group, s.Cluster),
		dry(ctx, c, attachInterface, func(c *calls) call[ec2.AttachNetworkInterfaceInput, ec2.AttachNetworkInterfaceOutput] {
			return c.attach
		},
			&ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: eni, InstanceId: aws.String(s.Instance), DeviceIndex: aws.Int32(1), NetworkCardIndex: aws.Int32(0)},
			s.ENI, s.Instance),
		dry(ctx, c, modifyInterface, modify, &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: eni, Groups: []string{s.Group}}, s.ENI, s.Group),
		dry(ctx, c, modifyInterface, modify, &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: eni,
			Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: aws.String(s.Attachment), DeleteOnTermination: aws.Bool(true)}}, s.ENI, s.Attachment),
		dry(ctx, c, detachInterface, func(c *calls) call[ec2.DetachNetworkInterfaceInput, ec2.DetachNetworkInterfaceOutput] {
			return c.detach
		},
			&ec2.DetachNetworkInterfaceInput{AttachmentId: aws.String(s.Attachment), Force: aws.Bool(false)}, s.Attachment),
		dry(ctx, c, deleteInterface, func(c *calls) call[ec2.DeleteNetworkInterfaceInput, ec2.DeleteNetworkInterfaceOutput] {
			return c.remove
		},
			&ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: eni}, s.ENI),
	}
}
