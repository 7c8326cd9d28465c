package attach

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// Codes of CNI errors: below 100 the spec's, from 100 on multi-eni's own.
const (
	codeVersion       = types.ErrIncompatibleCNIVersion
	codeEnvironment   = types.ErrInvalidEnvironmentVariables
	codeDecode        = types.ErrDecodingFailure
	codeInvalid       = types.ErrInvalidNetworkConfig
	codeTryAgain      = types.ErrTryAgainLater
	codeNotAvailable  = 50
	codeNoDevice      = 100
	codeHeld          = 101
	codeUnsupported   = 102
	codeNotAllocated  = 103
	codeOtherDevice   = 104
	codePolicy        = 105
	codeInternal      = types.ErrInternal
	codeInvalidNetNS  = types.ErrInvalidNetNS
	codeUnknownRecord = types.ErrUnknownContainer
)

// refusal is an error with the code that a runtime gets to see.
type refusal struct {
	code uint
	msg  string
	err  error
}

func (e *refusal) Error() string {
	if e.err == nil {
		return e.msg
	}
	return e.msg + ": " + e.err.Error()
}

func (e *refusal) Unwrap() error { return e.err }

func refuse(code uint, format string, args ...any) error {
	return &refusal{code: code, msg: fmt.Sprintf(format, args...)}
}

// rank orders refusals of several candidate devices: the first that applies is
// the one to report.
var rank = []uint{codeHeld, codeTryAgain, codeNotAllocated, codeNoDevice, codeOtherDevice}

// worst returns the error to report for several candidates.
func worst(errs []error) error {
	for _, code := range rank {
		for _, err := range errs {
			var r *refusal
			if errors.As(err, &r) && r.code == code {
				return err
			}
		}
	}
	return errs[0]
}

func busyDevice(pci device.PCIAddress) error {
	return refuse(codeTryAgain, "device %s has been locked by other ADDs or DELs for more than %s; try again", pci, claimWait)
}

// unknownDevice refuses addresses of a device that the inventory does not have.
func unknownDevice(pci device.PCIAddress) error {
	return refuse(codeTryAgain, "ipam.type %s: the inventory has no device %s, so its addresses are not known; "+
		"see that multi-enid runs and that a NodeENI declares it", netconf.ENIIPAMType, pci)
}

// heldError names who has the device.
func heldError(pci device.PCIAddress, what, holder string) error {
	return refuse(codeHeld, "device %s is held by %s; %s", pci, holder, what)
}

// toCNI assigns the code, once, at the edge: skel would report the innermost
// types.Error and lose what was wrapped around it.
func toCNI(err error) error {
	if err == nil {
		return nil
	}
	var (
		own     *refusal
		version *netconf.VersionError
		invalid *netconf.InvalidError
		decode  *netconf.DecodeError
		policy  *netconf.PolicyError
		other   *types.Error
	)
	code := codeInternal
	switch {
	case errors.As(err, &own):
		code = own.code
	case errors.As(err, &version):
		code = codeVersion
	case errors.As(err, &invalid):
		code = codeInvalid
	case errors.As(err, &decode):
		code = codeDecode
	case errors.As(err, &policy):
		code = codePolicy
	case errors.As(err, &other): // a delegate's or IPAM plugin's
		code = other.Code
	}
	return types.NewError(code, strings.ReplaceAll(err.Error(), "\n", "; "), "")
}
