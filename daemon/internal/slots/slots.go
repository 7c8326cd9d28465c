// Package slots says which ENIs a cluster's NodeENIs want, and where on the instances they go. A slot is one ENI: of one NodeENI, in one
// subnet, on one instance. The package is pure.
package slots

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// ID names a slot for good: it is made of what the slot is, and tags its ENI in EC2.
type ID string

// NewID returns the first 16 hexadecimal digits of sha256("cluster|nodeENI UID|instance ID|subnet ID").
func NewID(cluster, nodeENI, instance, subnet string) ID {
	sum := sha256.Sum256([]byte(strings.Join([]string{cluster, nodeENI, instance, subnet}, "|")))
	return ID(hex.EncodeToString(sum[:8]))
}

// NodeENI names one version of a NodeENI.
type NodeENI struct {
	Name, UID  string
	Generation int64
}

// Slot is one wanted ENI. Two slots with one ID are the same ENI.
type Slot struct {
	ID      ID
	NodeENI NodeENI
	// Node is the Node's name; Instance, VPC and Zone are its EC2 instance's.
	Node, Instance, VPC, Zone string
	Subnet, SubnetCIDR        string
	// Groups are ids, sorted.
	Groups []string
	// Exact is the device index that the NodeENI asks for: deviceIndex plus the subnet's place in its list. Index and Card are where PlanNode
	// put it, or where EC2 has it.
	Exact, Index, Card int
	// AnyCard: PlanNode may choose the card.
	AnyCard bool
	Options Options
}

// Options are further fields and annotations of the NodeENI.
type Options struct {
	DeleteOnTermination bool
	Description         string
	// Tags are the user's.
	Tags                                         map[string]string
	IPv6Addresses, SecondaryAddresses, Prefixes  int
	SourceDestCheck, EnaExpress                  *bool
	TCPEstablished, UDPStream, UDPTimeout        *int // connection tracking, in seconds
	MTU                                          int
	EnableDPDK                                   bool
	DPDKDriver, DPDKPCIAddress, DPDKResourceName string
	// AllowedNamespaces is the annotation's text; nil without it.
	AllowedNamespaces *string
}

// Fault is why a NodeENI, or one slot of it, cannot be had. Its message names field, value and way out.
type Fault struct {
	Reason, Message string
}

// Reasons of Faults and of blocked slots. docs/controller.md explains each.
const (
	NoSubnetInZone         = "NoSubnetInZone"
	AmbiguousSubnet        = "AmbiguousSubnet"
	AmbiguousSecurityGroup = "AmbiguousSecurityGroup"
	InvalidSubnet          = "InvalidSubnet"
	InvalidSecurityGroup   = "InvalidSecurityGroup"
	InvalidOption          = "InvalidOption"
	NoFreeInterface        = "NoFreeInterface"
	NoSecurityGroup        = "NoSecurityGroup"
	AutoModeNode           = "AutoModeNode"
	NoInstance             = "NoInstance"
)
