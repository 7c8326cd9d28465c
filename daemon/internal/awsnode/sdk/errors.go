package sdk

import (
	"errors"
	"fmt"
	"net"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// noCode is the SDK's for an answer without a code (service/ec2/deserializers.go of aws-sdk-go-v2).
const noCode = "UnknownError"

// Classify makes a failed call's error: call names it.
func Classify(call string, err error) *vpc.EC2Error {
	e := &vpc.EC2Error{Err: fmt.Errorf("%s: %w", call, err)}
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
		if e.Kind == vpc.EC2Forbidden && e.Service == "STS" {
			e.Kind = vpc.EC2Unauthenticated
		}
	case e.Service != "EC2" && !errors.Is(err, vpc.ErrOtherService), notSent(err), errors.Is(err, ErrNotSent):
		e.Kind = vpc.EC2NotSent // nobody to ask as, or nowhere to
	}
	return e
}

func notSent(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

// kindOfCode knows the codes of "Error codes for the Amazon EC2 API" and "Common error types" (EC2 API reference: errors-overview.html,
// CommonErrors.html). PrivateIpAddressLimitExceeded is for both families: neither page has a code for too many IPv6 addresses, of which
// an ENI may have as many as of IPv4 (AssignIpv6Addresses).
func kindOfCode(code string) vpc.EC2Kind {
	switch code {
	case "RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "RequestThrottledException", "EC2ThrottledException",
		"TooManyRequestsException":
		return vpc.EC2Throttled
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "OptInRequired", "NotAuthorized":
		return vpc.EC2Forbidden
	case "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "MissingAuthenticationToken", "ExpiredToken", "ExpiredTokenException",
		"RequestExpired", "SignatureDoesNotMatch", "IncompleteSignature", "InvalidIdentityToken", "IDPCommunicationError":
		return vpc.EC2Unauthenticated
	case "PrivateIpAddressLimitExceeded":
		return vpc.EC2Limit
	case "InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks":
		return vpc.EC2SubnetFull
	case "InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable":
		return vpc.EC2Unknown
	}
	return vpc.EC2Refused
}
