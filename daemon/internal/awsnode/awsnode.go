// Package awsnode asks AWS about this instance: its ENIs, from the instance metadata service (IMDS), and EC2.
// Only it and the packages below it import aws-sdk-go-v2.
//
// IMDS gives hints. It lists a detached ENI for a while, and a new one late: neither absence from its answer nor presence proves anything.
package awsnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

const (
	// requestTimeout bounds the reading of one key, with all attempts and the token call.
	requestTimeout = 3 * time.Second
	// dialTimeout and answerTimeout bound one attempt. They are the SDK's own.
	dialTimeout   = 250 * time.Millisecond
	answerTimeout = 500 * time.Millisecond
	// maxAttempts and attemptsApart are for requests without answer, with a 5xx, or with a 401 for a token that IMDS has forgotten.
	// IMDS is on the machine itself, so long waits are pointless.
	maxAttempts   = 3
	attemptsApart = 100 * time.Millisecond
	// listTimeout bounds a whole ENIs call.
	listTimeout = 15 * time.Second
	// concurrency is how many new ENIs are read at once.
	concurrency = 4
	// maxValue bounds a value, in bytes. The longest is a list of addresses: at most 50 of an ENI, 40 bytes each.
	maxValue = 64 << 10
)

// Config says how a Client reaches IMDS.
type Config struct {
	// Endpoint is IMDS's base URL. "" stands for the SDK's: AWS_EC2_METADATA_SERVICE_ENDPOINT, else http://169.254.169.254.
	Endpoint string
	// Now is the clock of the request budget and the memory; nil is time.Now.
	Now func() time.Time
}

// Client reads this instance's metadata: IMDSv2 only, with a token that the SDK renews. It remembers the ENIs, and asks only as often as
// its budget allows. It is safe for concurrent use.
type Client struct {
	imds   *imds.Client
	budget *budget
	// looking is full while ENIs runs, which alone then uses known.
	looking chan struct{}
	known   interfaces
}

// New returns a client. It sends nothing yet.
func New(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default; whoever tests this gives another
	}
	client := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout }).
		WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = answerTimeout })
	b := newBudget(client, cfg.Now)
	return &Client{budget: b, looking: make(chan struct{}, 1), imds: imds.New(imds.Options{
		Endpoint:   cfg.Endpoint,
		HTTPClient: b,
		// Version 1 takes no token, so any proxy or pod could be made to ask for us.
		EnableFallback: aws.FalseTernary,
		Retryer:        aws.NopRetryer{}, // get repeats, as far as the budget allows
	})}
}

var instancePattern = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// InstanceID returns an id such as i-0a1b2c3d4e5f60718. A *vpc.ValueError means a malformed id, any other error an unknown one.
func (c *Client) InstanceID(ctx context.Context) (string, error) {
	const key = "instance-id"
	id, err := c.get(ctx, key)
	if err != nil {
		return "", fmt.Errorf("read the instance's id: %w", err)
	}
	if !instancePattern.MatchString(id) {
		return "", fmt.Errorf("read the instance's id: %w", &vpc.ValueError{Key: key, Value: id, Err: errors.New("want i- and 8 to 17 hexadecimal digits")})
	}
	return id, nil
}

// errNoKey: IMDS answers, and lacks the key.
var errNoKey = errors.New("no such key")

// get reads one key and trims it. The error names the key, and wraps errNoKey if IMDS said 404.
func (c *Client) get(ctx context.Context, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		value, err := c.try(ctx, key)
		ctx = again(ctx)
		if err == nil || attempt == maxAttempts || !passing(err) || c.budget.left(ctx) < 1 || !backoff.Sleep(ctx, attemptsApart) {
			return value, err
		}
	}
}

// passing: another attempt may succeed. The SDK calls each failed token call final, since it already repeated that.
func passing(err error) bool {
	var operation, token *smithy.OperationError
	if errors.As(err, &operation) && errors.As(operation.Err, &token) {
		err = token.Err
	}
	return retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
}

func (c *Client) try(ctx context.Context, key string) (string, error) {
	out, err := c.imds.GetMetadata(ctx, &imds.GetMetadataInput{Path: key})
	switch {
	case isNotFound(err):
		return "", fmt.Errorf("metadata key %s: %w", key, errNoKey)
	case err != nil:
		return "", fmt.Errorf("metadata key %s: %w", key, err)
	}
	defer out.Content.Close() //nolint:errcheck // the SDK has read it all; it is in memory
	data, err := io.ReadAll(io.LimitReader(out.Content, maxValue+1))
	if err != nil {
		return "", fmt.Errorf("metadata key %s: %w", key, err)
	}
	if len(data) > maxValue {
		return "", fmt.Errorf("metadata key %s: more than %d bytes", key, maxValue)
	}
	return strings.TrimSpace(string(data)), nil
}

// isNotFound tells a missing key from a failed token call, which says nothing about the key.
func isNotFound(err error) bool {
	var operation, token *smithy.OperationError
	if !errors.As(err, &operation) || errors.As(operation.Err, &token) {
		return false
	}
	var response *smithyhttp.ResponseError
	return errors.As(operation.Err, &response) && response.HTTPStatusCode() == http.StatusNotFound
}
