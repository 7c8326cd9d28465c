// Package sdk has the parts of a client of EC2 that both the daemon's and the controller's need: configuration, requests that net/http never
// repeats by mistake, answers that are EC2's, dry runs and errors.
package sdk

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Configure finds region and credentials as the SDK usually does, and asks region where the environment has none. The region comes before
// the credentials, since IRSA's need one.
func Configure(ctx context.Context, retryer func() aws.Retryer, region func(context.Context) (string, error),
	more ...func(*config.LoadOptions) error) (aws.Config, error) {
	// The SDK's log lines about a failing service repeat its errors.
	options := append([]func(*config.LoadOptions) error{config.WithLogger(logging.Nop{}), config.WithRetryer(retryer)}, more...)
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err == nil && cfg.Region == "" {
		var name string
		if name, err = region(ctx); err != nil {
			return cfg, fmt.Errorf("find the region: %w", err)
		}
		cfg, err = config.LoadDefaultConfig(ctx, append(options, config.WithDefaultRegion(name))...)
	}
	if err != nil {
		return cfg, fmt.Errorf("configure EC2: %w", err)
	}
	return cfg, nil
}

// InOnePiece sends each request from memory, so net/http reads it to its end first. With the SDK's own body, net/http looks for the end
// afterwards, and gets io.EOF as an error once the answer is there. It then closes the connection and loses the rest of the answer,
// and the SDK calls again: an Assign would get more addresses than it asked for.
func InOnePiece(o *ec2.Options) { o.HTTPClient = whole{client: o.HTTPClient} }

// Guarded is InOnePiece that asks guard on each request, when the connection stands and before its first byte is written. After an
// error, which the call then wraps together with ErrNotSent, no request is sent.
func Guarded(guard func(context.Context) error) func(*ec2.Options) {
	return func(o *ec2.Options) { o.HTTPClient = whole{client: o.HTTPClient, guard: guard} }
}

// ErrNotSent means: a guard has refused the call.
var ErrNotSent = errors.New("not sent")

type whole struct {
	client ec2.HTTPClient
	guard  func(context.Context) error
}

func (w whole) Do(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		return w.client.Do(r)
	}
	all, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	body := &guarded{r: bytes.NewReader(all)}
	if w.guard != nil {
		body.guard = func() error { return w.guard(r.Context()) }
	}
	r.Body, r.GetBody = body, nil
	answer, err := w.client.Do(r)
	if body.refused != nil {
		if err == nil {
			err = answer.Body.Close()
		}
		return nil, errors.Join(body.refused, err)
	}
	return answer, err
}

// guarded asks before its first byte. net/http reads a body once it has a connection, and its headers wait in a buffer until then.
type guarded struct {
	r       *bytes.Reader
	guard   func() error
	refused error
}

func (g *guarded) Read(p []byte) (int, error) {
	if g.guard != nil {
		if err := g.guard(); err != nil {
			g.refused = fmt.Errorf("%w: %w", ErrNotSent, err)
			return 0, g.refused
		}
		g.guard = nil
	}
	return g.r.Read(p)
}

func (g *guarded) Close() error { return nil }

// maxAnswer bounds an answer, in bytes: a page of 1000 ENIs with 50 addresses each takes less.
const maxAnswer = 64 << 20

// OnlyEC2 refuses answers of other services. The SDK takes any XML with status 200, or no content, for an empty answer.
func OnlyEC2(o *ec2.Options) {
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

// AsDryRun makes a client ask only whether it might. EC2 takes DryRun with every action ("Common query parameters" of its API reference);
// the SDK has it for some.
func AsDryRun(o *ec2.Options) {
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

// Permitted reads the answer to a dry run: nil if the call is permitted.
func Permitted(action string, err error) *vpc.EC2Error {
	var api smithy.APIError
	switch {
	case err == nil:
		err = errors.New("EC2 has not honoured the dry run")
	case errors.As(err, &api) && api.ErrorCode() == "DryRunOperation":
		return nil
	}
	return Classify(action, err)
}
