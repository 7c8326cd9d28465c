// Package refusal has the errors of the plugins, each with the code that the runtime sees.
package refusal

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// Codes of CNI errors. Below 100 they are the CNI spec's, from 100 multi-eni's own.
const (
	Version       = types.ErrIncompatibleCNIVersion
	Environment   = types.ErrInvalidEnvironmentVariables
	Decode        = types.ErrDecodingFailure
	Invalid       = types.ErrInvalidNetworkConfig
	TryAgain      = types.ErrTryAgainLater
	NotAvailable  = 50
	NoDevice      = 100
	Held          = 101
	Unsupported   = 102
	NotAllocated  = 103
	OtherDevice   = 104
	Policy        = 105
	Internal      = types.ErrInternal
	InvalidNetNS  = types.ErrInvalidNetNS
	UnknownRecord = types.ErrUnknownContainer
)

// Error is an error with a code for the runtime.
type Error struct {
	error
	Code uint
}

// Unwrap returns the error without the code.
func (e *Error) Unwrap() error { return e.error }

// New returns an *Error with the text, and the cause, of fmt.Errorf.
func New(code uint, format string, args ...any) error {
	return &Error{fmt.Errorf(format, args...), code}
}

// rank orders the refusals of several candidate devices, most telling first.
var rank = []uint{Held, TryAgain, NotAllocated, NoDevice, OtherDevice}

// Worst returns the error to report for several candidate devices. Errs is not empty.
func Worst(errs []error) error {
	for _, code := range rank {
		for _, err := range errs {
			var r *Error
			if errors.As(err, &r) && r.Code == code {
				return err
			}
		}
	}
	return errs[0]
}

// ToCNI gives an error its code and makes it one line. Call it at the edge: a types.Error inside
// would lose the text that wraps it.
func ToCNI(err error) error {
	if err == nil {
		return nil
	}
	var (
		own     *Error
		version *netconf.VersionError
		invalid *netconf.InvalidError
		decode  *netconf.DecodeError
		policy  *netconf.PolicyError
		other   *types.Error
	)
	code := Internal
	switch {
	case errors.As(err, &own):
		code = own.Code
	case errors.As(err, &version):
		code = Version
	case errors.As(err, &invalid):
		code = Invalid
	case errors.As(err, &decode):
		code = Decode
	case errors.As(err, &policy):
		code = Policy
	case errors.As(err, &other): // of a delegate or IPAM plugin
		code = other.Code
	}
	return types.NewError(code, strings.ReplaceAll(err.Error(), "\n", "; "), "")
}
