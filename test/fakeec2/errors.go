package fakeec2

import (
	"fmt"
	"net/http"
)

type apiError struct {
	status        int
	code, message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// statusOf is the HTTP status of each code of the server. All codes are on one of two pages of the EC2 API
// reference: "Error codes for the Amazon EC2 API" (errors-overview.html) and "Common error types"
// (CommonErrors.html). A client error is 400 unless one of them, or the SDKs' logs, say otherwise.
func statusOf(code string) (int, bool) {
	switch code {
	case "AuthFailure":
		return http.StatusUnauthorized, true
	case "UnauthorizedOperation", "SignatureDoesNotMatch", "OptInRequired", "InvalidClientTokenId", "ExpiredToken":
		return http.StatusForbidden, true
	case "DryRunOperation":
		return http.StatusPreconditionFailed, true
	case "InternalError":
		return http.StatusInternalServerError, true
	case "RequestLimitExceeded", "Unavailable":
		return http.StatusServiceUnavailable, true
	case "RequestExpired", "IncompleteSignature", "InvalidRequest", "NoSuchVersion", "InvalidAction", "UnknownParameter", "MissingParameter",
		"InvalidParameterValue", "InvalidParameterCombination", "InvalidNetworkInterfaceID.NotFound", "OperationNotPermitted",
		"PrivateIpAddressLimitExceeded", "InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks",
		"InvalidNetworkInterfaceId.Malformed", "InvalidNetworkInterface.InUse", "InvalidAttachmentID.NotFound", "InvalidInstanceID.NotFound",
		"InvalidInstanceID.Malformed", "InvalidInstanceType", "InvalidSubnetID.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidGroup.NotFound",
		"InvalidParameter", "SecurityGroupsPerInterfaceLimitExceeded", "AttachmentLimitExceeded", "NetworkInterfaceLimitExceeded",
		"IncorrectState", "IncorrectInstanceState", "IdempotentParameterMismatch", "TagLimitExceeded", "FilterLimitExceeded", "InvalidPaginationToken":
		return http.StatusBadRequest, true
	}
	return 0, false
}

func refuse(code, format string, args ...any) error {
	status, known := statusOf(code)
	if !known {
		panic("fakeec2: " + code + " is no code of the API reference")
	}
	return &apiError{status, code, fmt.Sprintf(format, args...)}
}

// Faults besides error codes. Each says whether the call was carried out.
const (
	// Drop ends the connection before the call is carried out, Lose afterwards.
	Drop = "drop"
	Lose = "lose"
	// HTML is the page of a proxy, with status 200; the call is not carried out.
	HTML = "html"
	// HTML503 is a page with status 503, and Empty500 an answer without a body.
	HTML503  = "html 503"
	Empty500 = "empty 500"
	// Nothing is status 200 without a body; the call is not carried out.
	Nothing = "nothing"
	// Redirect is status 301 to a missing service.
	Redirect = "redirect"
	// Truncate carries out the call and ends the connection in the middle of the answer.
	Truncate = "truncate"
	// Slow waits before it carries out the call, until Config.Slow is closed or the client gives up.
	Slow = "slow"
)

const page = "<html><head><title>Sign in</title></head><body><p>Welcome to the network.</p></body></html>"

// instead answers with a fault that comes before the call, and says whether it has.
func instead(w http.ResponseWriter, fault string) bool {
	write := func(status int, body string) bool {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
		return true
	}
	switch fault {
	case Drop:
		panic(http.ErrAbortHandler)
	case HTML:
		return write(http.StatusOK, page)
	case HTML503:
		return write(http.StatusServiceUnavailable, page)
	case Empty500:
		return write(http.StatusInternalServerError, "")
	case Nothing:
		return write(http.StatusOK, "")
	case Redirect:
		w.Header().Set("Location", "http://127.0.0.1:1/")
		return write(http.StatusMovedPermanently, "")
	}
	return false
}
