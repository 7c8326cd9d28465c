package awsnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

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
	var api smithy.APIError
	switch {
	case err == nil:
		err = errors.New("EC2 has honoured neither the dry run nor the address")
	case errors.As(err, &api) && api.ErrorCode() == "DryRunOperation":
		return nil
	}
	return classify(action, err)
}

// asDryRun makes a client ask only whether it might. EC2 takes DryRun with every action ("Common query parameters" of its API reference);
// the SDK has it for some.
func asDryRun(o *ec2.Options) {
	o.APIOptions = append(slices.Clone(o.APIOptions), func(s *middleware.Stack) error {
		return s.Serialize.Add(middleware.SerializeMiddlewareFunc("DryRun", addDryRun), middleware.After)
	})
}

func addDryRun(ctx context.Context, in middleware.SerializeInput, next middleware.SerializeHandler) (out middleware.SerializeOutput, m middleware.Metadata,
	err error) {
	request, ok := in.Request.(*smithyhttp.Request)
	if !ok {
		return out, m, &smithy.SerializationError{Err: fmt.Errorf("request is a %T", in.Request)}
	}
	body, err := io.ReadAll(request.GetStream())
	if err != nil {
		return out, m, &smithy.SerializationError{Err: err}
	}
	if in.Request, err = request.SetStream(bytes.NewReader(append(body, "&DryRun=true"...))); err != nil {
		return out, m, &smithy.SerializationError{Err: err}
	}
	return next.HandleSerialize(ctx, in)
}
