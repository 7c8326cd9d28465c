// Package slots says which ENIs a cluster's NodeENIs want, and where on the instances they go. A slot is one ENI: of one NodeENI, in one
// subnet, on one instance. The package is pure.
package slots

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
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
	SourceDestCheck, EnaExpress                  *bool // nil leaves EC2's setting as it is
	Tracking                                     vpc.Tracking
	MTU                                          int
	EnableDPDK                                   bool
	DPDKDriver, DPDKPCIAddress, DPDKResourceName string
	// AllowedNamespaces is the annotation's text; nil without it.
	AllowedNamespaces *string
}

// Node is a Node of the cluster.
type Node struct {
	Name, ProviderID string
	Labels           map[string]string
	// VPC is its instance's, "" while EC2 has not been asked. Only names of subnets and groups need it.
	VPC string
}

// Catalog is EC2's answer about subnets and security groups. A key that is missing has not been asked for; an empty list means: EC2 has none.
type Catalog struct {
	SubnetIDs, SubnetNames map[string][]vpc.Subnet
	GroupIDs, GroupNames   map[string][]vpc.SecurityGroup
}

// Input is the knowledge from which Slots are made. The lists of NodeENIs and Nodes must have been read.
type Input struct {
	// Cluster is the UID of the namespace kube-system.
	Cluster  string
	NodeENIs []v1alpha1.NodeENI
	// Unreadable are the UIDs of NodeENIs that could not be decoded.
	Unreadable []string
	Nodes      []Node
	Catalog    Catalog
}

// Result has the slots of all nodes.
type Result struct {
	// Slots are sorted by node, name of the NodeENI, and Exact.
	Slots  []Slot
	Faults []Fault
	// Unknown are pairs of NodeENI and node for which more slots may be wanted than Slots has: the present entries stay as they are.
	unknown map[pair]bool
	// unreadable are UIDs of NodeENIs.
	unreadable map[string]bool
}

// pair is a NodeENI on a node.
type pair struct{ uid, node string }

// Keep reports whether a present entry of this NodeENI (by UID) on this node stays as it is even if Slots lacks it.
func (r Result) Keep(nodeENI, node string) bool {
	return r.unreadable[nodeENI] || r.unknown[pair{nodeENI, node}]
}

// Fault is why a NodeENI, or one slot of it, cannot be had. Its message names field, value and way out.
type Fault struct {
	Reason, Message string
	// NodeENI and Node say where; Node is "" if it is the same on each.
	NodeENI NodeENI
	Node    string
}

// Reasons of Faults and of blocked slots. docs/controller.md explains each.
const (
	NoSubnet               = string(reason.NoSubnet)
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
