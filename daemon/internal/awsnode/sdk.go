package awsnode

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// ec2Calls are the calls of the SDK's client that we make. They hide it: a type that
// is reached from an interface keeps all its methods in the program, of which an
// ec2.Client has 750 (30 MB), since other libraries look methods up by name.
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

// once has a call not be repeated, for it is not idempotent.
func once(o *ec2.Options) { o.Retryer = aws.NopRetryer{} }

// connect finds out who and where we are, once that succeeds, and waits for the
// limiter.
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
	e.calls, e.dry, e.instance = callsOf(ec2.NewFromConfig(cfg, inOnePiece, onlyEC2)), callsOf(ec2.NewFromConfig(cfg, inOnePiece, onlyEC2, asDryRun)), instance
	return e.calls, e.instance, nil
}

// configure finds region, credentials and ways to retry. Where the environment has
// no region it is the instance's; the credentials of IRSA need one too, so that it
// is given before they are looked for.
func (e *EC2) configure(ctx context.Context) (aws.Config, error) {
	// The SDK's log lines about a failing service repeat its errors.
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{}), config.WithRetryer(func() aws.Retryer {
		return retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
			o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = ec2Attempts, e.backOff })
		})
	})}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err == nil && cfg.Region == "" {
		var region string
		if region, err = e.imds.get(ctx, "placement/region"); err != nil {
			return cfg, fmt.Errorf("find the region: %w", err)
		}
		cfg, err = config.LoadDefaultConfig(ctx, append(options, config.WithDefaultRegion(region))...)
	}
	if err != nil {
		return cfg, fmt.Errorf("configure EC2: %w", err)
	}
	return cfg, nil
}

// inOnePiece has a client send each request from memory: net/http then reads it to
// its end before any of it is sent. The SDK's own body makes net/http look for its
// end afterwards, and gives it io.EOF as an error once the answer is there: the
// connection is closed, the unread rest of the answer is lost, and the SDK
// calls again, which for an Assign means more addresses than were asked for.
func inOnePiece(o *ec2.Options) { o.HTTPClient = whole{o.HTTPClient} }

type whole struct{ client ec2.HTTPClient }

func (w whole) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		all, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(all))
	}
	return w.client.Do(r)
}

// maxAnswer bounds an answer, in bytes: ec2Page ENIs with 50 addresses each take less.
const maxAnswer = 8 << 20

// onlyEC2 has a client take no other answer for EC2's. The SDK takes any XML with
// status 200, and none at all, for an answer without content.
func onlyEC2(o *ec2.Options) {
	o.APIOptions = append(slices.Clone(o.APIOptions), func(s *middleware.Stack) error {
		return s.Deserialize.Add(middleware.DeserializeMiddlewareFunc("OnlyEC2", checkRoot), middleware.After)
	})
}

// checkRoot reads an answer and looks at its root element, which is the action's name
// and "Response" ("Making API requests", in the EC2 developer guide).
func checkRoot(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (out middleware.DeserializeOutput,
	m middleware.Metadata, err error) {
	out, m, err = next.HandleDeserialize(ctx, in)
	response, ok := out.RawResponse.(*smithyhttp.Response)
	if err != nil || !ok || response.StatusCode != http.StatusOK {
		return out, m, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return out, m, fmt.Errorf("read the answer: %w", err)
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(body), response.Body}
	for d := xml.NewDecoder(bytes.NewReader(body)); ; {
		token, err := d.Token()
		if err != nil {
			return out, m, fmt.Errorf("%w: no XML", vpc.ErrOtherService)
		}
		if root, ok := token.(xml.StartElement); ok {
			if want := middleware.GetOperationName(ctx) + "Response"; root.Name.Local != want {
				return out, m, fmt.Errorf("%w: it begins with %q, not %s", vpc.ErrOtherService, root.Name.Local, want)
			}
			return out, m, nil
		}
	}
}
