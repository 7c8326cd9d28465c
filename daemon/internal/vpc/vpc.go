// Package vpc has the daemon's plain values about ENIs, as the metadata service and EC2 describe them, and about failed calls.
// It imports nothing of AWS; package awsnode fills the values in.
package vpc

import (
	"fmt"
	"net/netip"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// NodeENITag is the tag with the NodeENI's name that the public controller gives to each ENI it makes. Other ENIs belong to somebody else.
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
	// ID is "" while IMDS lists only the MAC, during attaching or detaching. MAC is "" only for an Unreadable line of the list.
	ID  device.ENIID
	MAC device.MAC
	// DeviceIndex is EC2's; -1 while unknown, because IMDS gives 0 for a hot-plugged ENI until it learns the true one.
	DeviceIndex int
	// NetworkCard is EC2's index of the card; 0 with only one card, -1 while unknown.
	NetworkCard int
	SubnetID    device.SubnetID
	// SubnetCIDR is the subnet's IPv4 range; without one, its first IPv6 range.
	SubnetCIDR netip.Prefix
	// VPCCIDRs are the VPC's IPv4 ranges.
	VPCCIDRs []netip.Prefix
	// Addresses are the ENI's in IMDS's order (the primary one first), IPv4 before IPv6, each with its subnet's length.
	Addresses []netip.Prefix
	// Prefixes are delegated to the ENI, IPv4 before IPv6.
	Prefixes []netip.Prefix
	// Primary: the instance booted with it; it cannot be detached.
	Primary bool
	// Described: EC2 has answered for it, with or without NodeENITag, whose value is NodeENI. The metadata know no tags.
	Described bool
	NodeENI   string
	// Unreadable is a senseless IMDS value about this ENI, or nil. The other fields then have their last values, or are unknown.
	Unreadable *ValueError
}

// ValueError is an answer of IMDS that makes no sense.
type ValueError struct {
	// Key is the metadata path below meta-data/.
	Key string
	// Value is the line concerned.
	Value string
	Err   error
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("metadata key %s, value %q: %v", e.Key, e.Value, e.Err)
}

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
	// Err is nil if permitted, EC2Forbidden if not. Any other kind says why that is unknown.
	Err *EC2Error
}
