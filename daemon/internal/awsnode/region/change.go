package region

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Actions that change something.
const (
	createInterface = "CreateNetworkInterface"
	attachInterface = "AttachNetworkInterface"
	modifyInterface = "ModifyNetworkInterfaceAttribute"
	createTags      = "CreateTags"
	detachInterface = "DetachNetworkInterface"
	deleteInterface = "DeleteNetworkInterface"
)

func creation(x vpc.Creation) *ec2.CreateNetworkInterfaceInput {
	in := &ec2.CreateNetworkInterfaceInput{
		SubnetId: aws.String(x.SubnetID), Groups: x.Groups, SecondaryPrivateIpAddressCount: number(x.SecondaryAddresses), Ipv6AddressCount: number(x.IPv6Addresses),
		Ipv4PrefixCount: number(x.Prefixes),
	}
	if x.Token != "" { // the SDK would make one up
		in.ClientToken = aws.String(x.Token)
	}
	if x.Description != "" {
		in.Description = aws.String(x.Description)
	}
	if len(x.Tags) > 0 {
		in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeNetworkInterface, Tags: tagSet(x.Tags)}}
	}
	if x.Tracking != (vpc.Tracking{}) {
		in.ConnectionTrackingSpecification = &types.ConnectionTrackingSpecificationRequest{
			TcpEstablishedTimeout: number(x.Tracking.TCPEstablished), UdpStreamTimeout: number(x.Tracking.UDPStream), UdpTimeout: number(x.Tracking.UDPTimeout),
		}
	}
	return in
}

func number(n int) *int32 {
	if n <= 0 {
		return nil
	}
	return aws.Int32(int32(min(n, 1<<20))) //nolint:gosec // bounded
}

// tagSet has an order, since a ClientToken's parameters must stay the same.
func tagSet(tags map[string]string) (set []types.Tag) {
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		set = append(set, types.Tag{Key: aws.String(key), Value: aws.String(tags[key])})
	}
	return set
}

// Create makes an ENI. After an error of Kind EC2Unknown it may exist; then Interface.ID is "", or the id if only other values make no sense.
func (c *Client) Create(ctx context.Context, x vpc.Creation) (vpc.Interface, error) {
	out, err := change(ctx, c, createInterface, x.Token, func(c *calls) call[ec2.CreateNetworkInterfaceInput, ec2.CreateNetworkInterfaceOutput] {
		return c.create
	}, creation(x))
	switch {
	case err != nil:
		return vpc.Interface{}, err
	case out.NetworkInterface == nil:
		return vpc.Interface{}, senseless(createInterface, errors.New("the answer has no ENI"))
	}
	made := *out.NetworkInterface
	if len(made.TagSet) == 0 { // Create's answer may lack the request's tags
		made.TagSet = tagSet(x.Tags)
	}
	i := interfaceOf(&made)
	if i.Unreadable != nil {
		return vpc.Interface{ID: i.ID}, senseless(createInterface, i.Unreadable)
	}
	return i, nil
}

func senseless(action string, err error) error {
	return &vpc.EC2Error{Kind: vpc.EC2Unknown, Service: "EC2", Err: sdk.Classify(action, err)}
}

// Attach attaches an ENI to an instance and returns the attachment's id.
func (c *Client) Attach(ctx context.Context, j vpc.Joining) (string, error) {
	in := &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: aws.String(j.ENI), InstanceId: aws.String(j.Instance),
		DeviceIndex: aws.Int32(int32(min(j.DeviceIndex, maxIndex))), NetworkCardIndex: aws.Int32(int32(min(j.NetworkCard, maxIndex))), //nolint:gosec // bounded
	}
	if j.EnaExpress {
		in.EnaSrdSpecification = &types.EnaSrdSpecification{EnaSrdEnabled: aws.Bool(true)}
	}
	out, err := change(ctx, c, attachInterface, j.ENI, func(c *calls) call[ec2.AttachNetworkInterfaceInput, ec2.AttachNetworkInterfaceOutput] {
		return c.attach
	}, in)
	switch {
	case err != nil:
		return "", err
	case !attachmentPattern.MatchString(aws.ToString(out.AttachmentId)):
		return "", senseless(attachInterface, errors.New("the answer has no attachment's id"))
	}
	return *out.AttachmentId, nil
}

// SetDeleteOnTermination says whether EC2 deletes an attached ENI with its instance.
func (c *Client) SetDeleteOnTermination(ctx context.Context, eni, attachment string, on bool) error {
	return c.modify(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: aws.String(eni),
		Attachment:         &types.NetworkInterfaceAttachmentChanges{AttachmentId: aws.String(attachment), DeleteOnTermination: aws.Bool(on)},
	})
}

// SetGroups replaces an ENI's security groups.
func (c *Client) SetGroups(ctx context.Context, eni string, groups []string) error {
	return c.modify(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: aws.String(eni), Groups: groups})
}

// SetSourceDestCheck says whether EC2 drops packets that are not from or to the ENI's own addresses.
func (c *Client) SetSourceDestCheck(ctx context.Context, eni string, on bool) error {
	return c.modify(ctx, &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: aws.String(eni), SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(on)},
	})
}

func (c *Client) modify(ctx context.Context, in *ec2.ModifyNetworkInterfaceAttributeInput) error {
	_, err := change(ctx, c, modifyInterface, aws.ToString(in.NetworkInterfaceId),
		func(c *calls) call[ec2.ModifyNetworkInterfaceAttributeInput, ec2.ModifyNetworkInterfaceAttributeOutput] {
			return c.modify
		}, in)
	return err
}

// SetTags adds tags to an ENI, or replaces their values. Other tags stay.
func (c *Client) SetTags(ctx context.Context, eni string, tags map[string]string) error {
	_, err := change(ctx, c, createTags, eni, func(c *calls) call[ec2.CreateTagsInput, ec2.CreateTagsOutput] { return c.tag },
		&ec2.CreateTagsInput{Resources: []string{eni}, Tags: tagSet(tags)})
	return err
}

// Detach detaches an ENI by its attachment. EC2 does so a while after the call; a forced one does not wait for the instance.
func (c *Client) Detach(ctx context.Context, attachment string, force bool) error {
	_, err := change(ctx, c, detachInterface, attachment, func(c *calls) call[ec2.DetachNetworkInterfaceInput, ec2.DetachNetworkInterfaceOutput] {
		return c.detach
	}, &ec2.DetachNetworkInterfaceInput{AttachmentId: aws.String(attachment), Force: aws.Bool(force)})
	return err
}

// Delete deletes an ENI that is attached to nothing.
func (c *Client) Delete(ctx context.Context, eni string) error {
	_, err := change(ctx, c, deleteInterface, eni, func(c *calls) call[ec2.DeleteNetworkInterfaceInput, ec2.DeleteNetworkInterfaceOutput] {
		return c.remove
	}, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: aws.String(eni)})
	return err
}
