package region

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

type call[In, Out any] func(context.Context, *In, ...func(*ec2.Options)) (*Out, error)

// calls are the SDK calls that we make. They hide its client: a type reached from an interface keeps all its methods in the program,
// since other libraries look methods up by name, and an ec2.Client has 750 (30 MB).
type calls struct {
	interfaces    call[ec2.DescribeNetworkInterfacesInput, ec2.DescribeNetworkInterfacesOutput]
	instances     call[ec2.DescribeInstancesInput, ec2.DescribeInstancesOutput]
	instanceTypes call[ec2.DescribeInstanceTypesInput, ec2.DescribeInstanceTypesOutput]
	subnets       call[ec2.DescribeSubnetsInput, ec2.DescribeSubnetsOutput]
	groups        call[ec2.DescribeSecurityGroupsInput, ec2.DescribeSecurityGroupsOutput]
	create        call[ec2.CreateNetworkInterfaceInput, ec2.CreateNetworkInterfaceOutput]
	attach        call[ec2.AttachNetworkInterfaceInput, ec2.AttachNetworkInterfaceOutput]
	modify        call[ec2.ModifyNetworkInterfaceAttributeInput, ec2.ModifyNetworkInterfaceAttributeOutput]
	tag           call[ec2.CreateTagsInput, ec2.CreateTagsOutput]
	detach        call[ec2.DetachNetworkInterfaceInput, ec2.DetachNetworkInterfaceOutput]
	remove        call[ec2.DeleteNetworkInterfaceInput, ec2.DeleteNetworkInterfaceOutput]
}

func callsOf(c *ec2.Client) *calls {
	return &calls{
		interfaces: c.DescribeNetworkInterfaces, instances: c.DescribeInstances, instanceTypes: c.DescribeInstanceTypes, subnets: c.DescribeSubnets,
		groups: c.DescribeSecurityGroups, create: c.CreateNetworkInterface, attach: c.AttachNetworkInterface, modify: c.ModifyNetworkInterfaceAttribute,
		tag: c.CreateTags, detach: c.DetachNetworkInterface, remove: c.DeleteNetworkInterface,
	}
}

// connection has the calls as who and where we are. look and change differ in the guard; dry only asks for permission.
type connection struct{ look, change, dry *calls }

// Connect finds region and credentials, until that succeeds once. Each call does so by itself; a start asks to fail early.
func (c *Client) Connect(ctx context.Context) error {
	if _, err := c.connect(ctx); err != nil {
		return sdk.Classify("connect to EC2", err)
	}
	return nil
}

func (c *Client) connect(ctx context.Context) (*connection, error) {
	select {
	case c.connecting <- struct{}{}:
		defer func() { <-c.connecting }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if conn := c.connected.Load(); conn != nil {
		return conn, nil
	}
	cfg, err := sdk.Configure(ctx, func() aws.Retryer { return aws.NopRetryer{} }, regionOfInstance, config.WithRegion(c.cfg.Region))
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	if _, err := cfg.Credentials.Retrieve(wait); err != nil {
		return nil, fmt.Errorf("find credentials: %w; give the ServiceAccount a role by EKS Pod Identity or IRSA (deploy/iam/README.md)", err)
	}
	conn := &connection{
		look:   callsOf(ec2.NewFromConfig(cfg, c.client, sdk.InOnePiece, sdk.OnlyEC2)),
		change: callsOf(ec2.NewFromConfig(cfg, c.client, sdk.Guarded(c.guard), sdk.OnlyEC2)),
		dry:    callsOf(ec2.NewFromConfig(cfg, c.client, sdk.InOnePiece, sdk.OnlyEC2, sdk.AsDryRun)),
	}
	c.connected.Store(conn)
	return conn, nil
}

func (c *Client) client(o *ec2.Options) {
	if c.cfg.HTTPClient != nil {
		o.HTTPClient = c.cfg.HTTPClient
	}
}

func regionOfInstance(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	metadata := imds.New(imds.Options{EnableFallback: aws.FalseTernary, Retryer: aws.NopRetryer{}})
	var name []byte
	out, err := metadata.GetMetadata(ctx, &imds.GetMetadataInput{Path: "placement/region"})
	if err == nil {
		defer out.Content.Close() //nolint:errcheck // read only
		name, err = io.ReadAll(io.LimitReader(out.Content, 100))
	}
	if err == nil && strings.TrimSpace(string(name)) == "" {
		err = errors.New("the answer is empty")
	}
	if err != nil {
		return "", fmt.Errorf("set AWS_REGION: the environment has no region, and the instance's metadata service gives none: %w", err)
	}
	return strings.TrimSpace(string(name)), nil
}

type sentKey struct{}

// guard notes that a call is now being sent, unless nobody wants it any more or Config.Guard forbids it.
func (c *Client) guard(ctx context.Context) error {
	if err := vpc.Standing(ctx); err != nil {
		return err
	}
	if c.cfg.Guard != nil {
		if err := c.cfg.Guard(); err != nil {
			return err
		}
	}
	c.mutations.Add(1)
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
	return nil
}

// look repeats a call that changes nothing. Each attempt takes a token.
func look[In, Out any](ctx context.Context, c *Client, action string, pick func(*calls) call[In, Out], in *In) (*Out, error) {
	wait := backoff.Backoff{First: c.firstWait, Cap: longestWait}
	for attempt := 1; ; attempt++ {
		out, err := once(ctx, c, action, action, func(conn *connection) call[In, Out] { return pick(conn.look) }, in)
		if err == nil {
			return out, nil
		}
		// Many clients are throttled at once: without chance they would come back at once, too.
		pause := wait.Failed()/2 + rand.N(wait.Wait()/2+1) //nolint:gosec // no secret
		if attempt == attempts || !passing(err) || !backoff.Sleep(ctx, pause) {
			return nil, err
		}
	}
}

// passing: another attempt may succeed.
func passing(err *vpc.EC2Error) bool {
	var senseless *smithy.DeserializationError
	switch err.Kind {
	case vpc.EC2Unknown, vpc.EC2NotSent, vpc.EC2Throttled:
		return !errors.As(err, &senseless)
	default:
		return false
	}
}

// change sends a call that changes something, once. The error's Kind is EC2NotSent if EC2 cannot have got it.
func change[In, Out any](ctx context.Context, c *Client, action, on string, pick func(*calls) call[In, Out], in *In) (*Out, error) {
	var sent atomic.Bool
	name := strings.TrimSpace(action + " " + on)
	out, err := once(context.WithValue(ctx, sentKey{}, &sent), c, action, name, func(conn *connection) call[In, Out] { return pick(conn.change) }, in)
	if err == nil {
		return out, nil
	}
	if err.Kind == vpc.EC2Unknown && !sent.Load() {
		err.Kind = vpc.EC2NotSent
	}
	return nil, err
}

func once[In, Out any](ctx context.Context, c *Client, action, name string, pick func(*connection) call[In, Out], in *In) (*Out, *vpc.EC2Error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, sdk.Classify(name, err)
	}
	bucket := c.bucket(action)
	waiting, stop := vpc.UntilSent(ctx)
	err = bucket.Wait(waiting, vpc.PriorityOf(ctx))
	stop()
	if err != nil {
		return nil, sdk.Classify(name, fmt.Errorf("%w: wait for the rate: %w", sdk.ErrNotSent, err))
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	sent := c.cfg.Now()
	out, err := pick(conn)(ctx, in)
	var failed *vpc.EC2Error
	code := CodeOK
	if err != nil {
		failed = sdk.Classify(name, err)
		code = observed(failed)
	}
	if failed != nil && failed.Kind == vpc.EC2Throttled {
		bucket.Throttled(sent)
	}
	if c.cfg.Observe != nil {
		c.cfg.Observe(action, code, c.cfg.Now().Sub(sent))
	}
	return out, failed
}

func observed(err *vpc.EC2Error) string {
	switch {
	case err.Code != "":
		return err.Code
	case err.Kind == vpc.EC2NotSent:
		return CodeNotSent
	}
	return CodeNoAnswer
}
