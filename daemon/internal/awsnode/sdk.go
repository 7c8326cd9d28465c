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
	e.calls, e.dry, e.instance = callsOf(ec2.NewFromConfig(cfg, inOnePiece, onlyEC2)), callsOf(ec2.NewFromConfig(cfg, inOnePiece, onlyEC2, asDryRun)), instance
	return e.calls, e.instance, nil
}

// configure finds region, credentials and retries. The region is the environment's, else the instance's. It comes before the credentials,
// since IRSA's need one.
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

// inOnePiece sends each request from memory, so net/http reads it to its end first. With the SDK's own body, net/http looks for the end
// afterwards, and gets io.EOF as an error once the answer is there. It then closes the connection and loses the rest of the answer,
// and the SDK calls again: an Assign would get more addresses than it asked for.
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

// onlyEC2 refuses answers of other services. The SDK takes any XML with status 200, or no content, for an empty answer.
func onlyEC2(o *ec2.Options) {
	o.APIOptions = append(slices.Clone(o.APIOptions), func(s *middleware.Stack) error {
		return s.Deserialize.Add(middleware.DeserializeMiddlewareFunc("OnlyEC2", checkRoot), middleware.After)
	})
}

// checkRoot wants the answer's root element to be the action's name and "Response" ("Making API requests", EC2 developer guide).
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
