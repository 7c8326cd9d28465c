// Package vpc has the plain values that the daemon's packages say about ENIs:
// as the metadata service and EC2 describe them, and why a call has failed. It
// imports nothing of AWS; package awsnode fills the values in.
package vpc

import (
	"fmt"
	"net/netip"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// NodeENITag is the tag with the name of its NodeENI that the public controller
// gives to each ENI it makes. An ENI without it belongs to somebody else.
const NodeENITag = "NodeENI"

// Family is IPv4 or IPv6.
type Family bool

// The families.
const (
	IPv4 Family = false
	IPv6 Family = true
)

// ENI is a network interface as the instance metadata service (IMDS) describes it.
type ENI struct {
	// ID is "" while IMDS lists only the MAC, as it does for an ENI that is just being
	// attached or detached. MAC is "" only for an Unreadable line of the list.
	ID  device.ENIID
	MAC device.MAC
	// DeviceIndex is EC2's; -1 while it is not known, because IMDS gives 0 for a
	// hot-plugged ENI until the true one has reached it.
	DeviceIndex int
	// NetworkCard is EC2's index of the card; 0 where there is only one, -1 while it
	// is not known.
	NetworkCard int
	SubnetID    device.SubnetID
	// SubnetCIDR is the subnet's IPv4 range; without one, its first IPv6 range.
	SubnetCIDR netip.Prefix
	// VPCCIDRs are the IPv4 ranges of the VPC.
	VPCCIDRs []netip.Prefix
	// Addresses are the ENI's own in the order of IMDS (the primary one first),
	// IPv4 before IPv6, each with the length of its subnet's range.
	Addresses []netip.Prefix
	// Prefixes are delegated to the ENI, IPv4 before IPv6.
	Prefixes []netip.Prefix
	// Primary: the instance booted with it; it cannot be detached.
	Primary bool
	// Described: EC2 has answered for it, with or without NodeENITag, whose value is
	// NodeENI. The metadata know no tags.
	Described bool
	NodeENI   string
	// Unreadable is a value of IMDS about this ENI that makes no sense; nil when all
	// do. The other fields then keep their last values, or are not known.
	Unreadable *ValueError
}

// ValueError is an answer of IMDS that makes no sense.
type ValueError struct {
	// Key is the metadata path below meta-data/.
	Key string
	// Value is the line concerned.
	Value string
	// Err is the fault.
	Err error
}

// Error names key and value.
func (e *ValueError) Error() string {
	return fmt.Sprintf("metadata key %s, value %q: %v", e.Key, e.Value, e.Err)
}

// Unwrap returns Err.
func (e *ValueError) Unwrap() error { return e.Err }

// Attached is an ENI of this instance as EC2 describes it.
type Attached struct {
	ID       device.ENIID
	MAC      device.MAC
	SubnetID device.SubnetID
	// DeviceIndex and NetworkCard belong to its attachment.
	DeviceIndex, NetworkCard int
	// NodeENI is the value of NodeENITag, "" without it.
	NodeENI string
	// Addresses are the ENI's, the primary one first, IPv4 before IPv6.
	Addresses []netip.Addr
	// Prefixes are delegated to it, IPv4 before IPv6.
	Prefixes []netip.Prefix
}

// Permission is EC2's answer about the right to one call.
type Permission struct {
	// Action is the call, as policies name it behind "ec2:".
	Action string
	// Err is nil where it is permitted, and EC2Forbidden where it is not. Any other
	// kind says why that is not known.
	Err *EC2Error
}
