package awsnode

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
)

// ec2Calls are the SDK calls that we make. They hide its client: a type reached from an interface keeps all its methods in the program,
// since other libraries look methods up by name, and an ec2.Client has 750 (30 MB).
type ec2Calls struct {
	describe  func(context.Context, *ec2.DescribeNetworkInterfacesInput) (*ec2.DescribeNetworkInterfacesOutput, error)
	assign4   func(context.Context, *ec2.AssignPrivateIpAddressesInput) (*ec2.AssignPrivateIpAddressesOutput, error)
	assign6   func(context.Context, *ec2.AssignIpv6AddressesInput) (*ec2.AssignIpv6AddressesOutput, error)
	unassign4 func(context.Context, *ec2.UnassignPrivateIpAddressesInput) (*ec2.UnassignPrivateIpAddressesOutput, error)
	unassign6 func(context.Context, *ec2.UnassignIpv6AddressesInput) (*ec2.UnassignIpv6AddressesOutput, error)
}

func callsOf(c *ec2.Client) *ec2Calls {
	return &ec2Calls{
		describe: func(ctx context.Context, in *ec2.DescribeNetworkInterfacesInput) (*ec2.DescribeNetworkInterfacesOutput, error) {
			return c.DescribeNetworkInterfaces(ctx, in)
		},
		assign4: func(ctx context.Context, in *ec2.AssignPrivateIpAddressesInput) (*ec2.AssignPrivateIpAddressesOutput, error) {
			return c.AssignPrivateIpAddresses(ctx, in, once)
		},
		assign6: func(ctx context.Context, in *ec2.AssignIpv6AddressesInput) (*ec2.AssignIpv6AddressesOutput, error) {
			return c.AssignIpv6Addresses(ctx, in, once)
		},
		unassign4: func(ctx context.Context, in *ec2.UnassignPrivateIpAddressesInput) (*ec2.UnassignPrivateIpAddressesOutput, error) {
			return c.UnassignPrivateIpAddresses(ctx, in)
		},
		unassign6: func(ctx context.Context, in *ec2.UnassignIpv6AddressesInput) (*ec2.UnassignIpv6AddressesOutput, error) {
			return c.UnassignIpv6Addresses(ctx, in)
		},
	}
}

// once forbids a repetition: the call is not idempotent.
func once(o *ec2.Options) { o.Retryer = aws.NopRetryer{} }

// connect finds out who and where we are, until that succeeds once, and waits for the limiter.
func (e *EC2) connect(ctx context.Context) (*ec2Calls, string, error) {
	if err := e.limiter.Wait(ctx); err != nil {
		return nil, "", fmt.Errorf("wait for the next EC2 call: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calls != nil {
		return e.calls, e.instance, nil
	}
	instance, err := e.imds.InstanceID(ctx)
	if err != nil {
		return nil, "", err
	}
	cfg, err := e.configure(ctx)
	if err != nil {
		return nil, "", err
	}
	e.calls, e.instance = callsOf(ec2.NewFromConfig(cfg, sdk.InOnePiece, sdk.OnlyEC2)), instance
	e.dry = callsOf(ec2.NewFromConfig(cfg, sdk.InOnePiece, sdk.OnlyEC2, sdk.AsDryRun))
	return e.calls, e.instance, nil
}

func (e *EC2) configure(ctx context.Context) (aws.Config, error) {
	retryer := func() aws.Retryer {
		return retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = ec2Attempts, e.backOff })
		})
	}
	return sdk.Configure(ctx, retryer, func(ctx context.Context) (string, error) { return e.imds.get(ctx, "placement/region") })
}
