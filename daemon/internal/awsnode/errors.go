package awsnode

import (
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// EC2Kind is the reaction that an error of EC2 asks for.
type EC2Kind int

// The kinds of errors.
const (
	// EC2Unknown: it may or may not have been done; Describe will tell.
	EC2Unknown EC2Kind = iota
	// EC2NotSent: the call did not get as far as EC2.
	EC2NotSent
	// EC2Throttled: less often. Nothing was done, nor by the calls below.
	EC2Throttled
	// EC2Forbidden: the permission is missing.
	EC2Forbidden
	// EC2Unauthenticated: EC2, or STS before it, does not accept who is calling.
	EC2Unauthenticated
	// EC2Limit: the instance type has no more for this ENI.
	EC2Limit
	// EC2SubnetFull: the subnet has no more.
	EC2SubnetFull
	// EC2Refused: whatever it was, it was not done.
	EC2Refused
)

// EC2Error is a call that has failed.
type EC2Error struct {
	Kind EC2Kind
	// Code is the word for it of Service, "" when it gave none; Service is EC2's or
	// STS's name in the SDK, "" where the call did not get as far.
	Code, Service string
	// Status is the HTTP status; 0 without an answer.
	Status int
	// Err names the call.
	Err error
}

// Error names the call and its cause.
func (e *EC2Error) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *EC2Error) Unwrap() error { return e.Err }

// errOtherService says that an answer is not EC2's.
var errOtherService = errors.New("the answer is not EC2's")

// errNoENIs says that EC2 knows no ENI of an instance, which has a primary one.
var errNoENIs = errors.New("EC2 knows no ENI of this instance, not even the primary one")

// noCode is the SDK's for an answer without a code
// (service/ec2/deserializers.go of aws-sdk-go-v2).
const noCode = "UnknownError"

// classify finds the kind of an error.
func classify(call string, err error) *EC2Error {
	e := &EC2Error{Err: fmt.Errorf("%s: %w", call, err)}
	var operation *smithy.OperationError
	for inner := err; errors.As(inner, &operation); inner = operation.Err {
		e.Service = operation.Service() // the innermost service has answered
	}
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		e.Status = response.HTTPStatusCode()
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() != noCode {
		e.Code = api.ErrorCode()
	}
	switch {
	case e.Code != "":
		e.Kind = kindOfCode(e.Code)
		if e.Kind == EC2Forbidden && e.Service == "STS" {
			e.Kind = EC2Unauthenticated
		}
	case e.Service != "EC2" && !errors.Is(err, errOtherService), notSent(err):
		e.Kind = EC2NotSent // nobody to ask as, or nowhere to
	}
	return e
}

// notSent says whether no connection was made.
func notSent(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

// kindOfCode knows the codes of "Error codes for the Amazon EC2 API" and of "Common
// error types", in the EC2 API reference (errors-overview.html, CommonErrors.html).
// Neither has one for too many IPv6 addresses of an ENI, of which there may be as many
// as IPv4 ones (AssignIpv6Addresses): PrivateIpAddressLimitExceeded is the one for both.
func kindOfCode(code string) EC2Kind {
	switch code {
	case "RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "EC2ThrottledException":
		return EC2Throttled
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "OptInRequired", "NotAuthorized":
		return EC2Forbidden
	case "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "MissingAuthenticationToken", "ExpiredToken", "ExpiredTokenException",
		"RequestExpired", "SignatureDoesNotMatch", "IncompleteSignature", "InvalidIdentityToken", "IDPCommunicationError":
		return EC2Unauthenticated
	case "PrivateIpAddressLimitExceeded":
		return EC2Limit
	case "InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks":
		return EC2SubnetFull
	case "InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable":
		return EC2Unknown
	}
	return EC2Refused
}

// Ways out, of which several errors have the same.
const (
	remedyPolicy = "give the role the policy deploy/iam/multi-enid.json, by EKS Pod Identity or IRSA (docs/addresses.md)"
	remedyKey    = "EC2 does not know the access key, or not in this region: see AWS_ACCESS_KEY_ID, the role of Pod Identity or IRSA, and AWS_REGION"
	remedyTrust  = "the role does not let the daemon be it: correct its trust policy, which must name the cluster's OIDC provider and the ServiceAccount (docs/addresses.md)"
	remedyWay    = "credentials come by EKS Pod Identity, by IRSA or from the instance's role (docs/addresses.md); from a private subnet EC2 is reached by a NAT gateway or the VPC endpoint ec2"
	remedyOther  = "a proxy or another service answers: see AWS_ENDPOINT_URL_EC2, HTTPS_PROXY and AWS_REGION"
	remedyLater  = "ask again later"
)

// Remedy is the way out, as far as the answer shows one.
func (e *EC2Error) Remedy() string {
	switch e.Code {
	case "RequestExpired":
		return "the machine's clock is wrong by more than 15 minutes: see chronyc tracking or timedatectl"
	case "SignatureDoesNotMatch", "IncompleteSignature":
		return "the secret key is not the access key's, a proxy changes requests, or the clock is wrong: see AWS_SECRET_ACCESS_KEY, HTTPS_PROXY and timedatectl"
	case "ExpiredToken", "ExpiredTokenException":
		return "the session has ended, and nobody renews it: take credentials from Pod Identity, IRSA or the instance's role, not from a fixed AWS_SESSION_TOKEN"
	case "OptInRequired":
		return "the account has not been signed up for EC2, or not for this region: see AWS_REGION"
	}
	switch {
	case e.Service == "STS" && (e.Kind == EC2Unauthenticated || e.Kind == EC2Forbidden):
		return remedyTrust
	case e.Kind == EC2Forbidden:
		return remedyPolicy
	case e.Kind == EC2Unauthenticated:
		return remedyKey
	case errors.Is(e.Err, errNoENIs):
		return "check AWS_REGION, AWS_ENDPOINT_URL_EC2 and the account of the role"
	case errors.Is(e.Err, errOtherService):
		return remedyOther
	case e.Status >= http.StatusMultipleChoices && e.Status < http.StatusBadRequest:
		return "EC2 of this region is elsewhere: see AWS_REGION and AWS_ENDPOINT_URL_EC2"
	case e.Code == "" && e.Status != 0:
		return remedyOther + "; it may also pass"
	case e.Code == "":
		return remedyWay
	}
	return remedyLater
}
