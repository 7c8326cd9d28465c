package awsnode

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Link-local addresses, which no VPC and so no ENI can have.
const (
	noAddress4 = "169.254.0.1"
	noAddress6 = "fe80::1"
)

// Permissions asks EC2 for the right to each call that changes an ENI's addresses. Each is a dry run, and changes nothing even if
// EC2 ignores that, since no ENI can have its address.
func (e *EC2) Permissions(ctx context.Context, eni device.ENIID) (all []vpc.Permission) {
	id, v4, v6 := aws.String(eni.String()), []string{noAddress4}, []string{noAddress6}
	for _, p := range []struct {
		action string
		call   func(*ec2Calls) error
	}{
		{"AssignPrivateIpAddresses", func(c *ec2Calls) error {
			_, err := c.assign4(ctx, &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: id, PrivateIpAddresses: v4})
			return err
		}},
		{"UnassignPrivateIpAddresses", func(c *ec2Calls) error {
			_, err := c.unassign4(ctx, &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: id, PrivateIpAddresses: v4})
			return err
		}},
		{"AssignIpv6Addresses", func(c *ec2Calls) error {
			_, err := c.assign6(ctx, &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: id, Ipv6Addresses: v6})
			return err
		}},
		{"UnassignIpv6Addresses", func(c *ec2Calls) error {
			_, err := c.unassign6(ctx, &ec2.UnassignIpv6AddressesInput{NetworkInterfaceId: id, Ipv6Addresses: v6})
			return err
		}},
	} {
		all = append(all, vpc.Permission{Action: p.action, Err: e.permitted(ctx, p.action, p.call)})
	}
	return all
}

func (e *EC2) permitted(ctx context.Context, action string, call func(*ec2Calls) error) *vpc.EC2Error {
	_, _, err := e.connect(ctx)
	if err == nil {
		err = call(e.dry)
	}
	return sdk.Permitted(action, err)
}
