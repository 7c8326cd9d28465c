package lifecycle

import (
	"errors"
	"fmt"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

func no(code, format string, args ...any) error {
	kind := vpc.EC2Refused
	switch code {
	case "RequestLimitExceeded":
		kind = vpc.EC2Throttled
	case "InsufficientFreeAddressesInSubnet":
		kind = vpc.EC2SubnetFull
	case "UnauthorizedOperation":
		kind = vpc.EC2Forbidden
	}
	return &vpc.EC2Error{Kind: kind, Code: code, Service: "EC2", Status: 400, Err: fmt.Errorf("%s: "+format, append([]any{code}, args...)...)}
}

// The ends of a call besides EC2's own answer.
var (
	errKilled     = errors.New("the controller was killed before the call")
	errKilledLate = errors.New("the controller was killed after the call")
	errLost       = &vpc.EC2Error{Kind: vpc.EC2Unknown, Err: errors.New("no answer")}
)

// fault is what befalls a call before EC2 gets it.
func (f *fakeRegion) fault(mutates bool) error {
	f.calls++
	if f.rng.Float64() >= f.trouble {
		return nil
	}
	switch f.rng.IntN(5) {
	case 0:
		return no("RequestLimitExceeded", "Request limit exceeded.")
	case 1:
		return &vpc.EC2Error{Kind: vpc.EC2NotSent, Err: errors.New("connection refused")}
	case 2:
		return errKilled
	case 3:
		return no("UnauthorizedOperation", "You are not authorized to perform this operation.")
	}
	if mutates && f.rng.IntN(2) == 0 {
		return &vpc.EC2Error{Kind: vpc.EC2Unknown, Status: 503, Err: errors.New("Service Unavailable")}
	}
	return errLost
}
