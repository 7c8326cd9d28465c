package vpc

import (
	"context"
	"errors"
	"net/netip"
)

// The values below describe resources of a whole region. The controller uses them; ids are plain text, as Kubernetes objects have them.

// Interface is an ENI as DescribeNetworkInterfaces describes it.
type Interface struct {
	ID, MAC, SubnetID, VPCID, Zone string
	// Status is EC2's: pending, available, associated, attaching, in-use or detaching.
	Status      string
	Description string
	// Groups are the ids of its security groups, sorted.
	Groups          []string
	SourceDestCheck bool
	// Attachment is nil without one.
	Attachment *Attachment
	Tags       map[string]string
	// Addresses are the ENI's, the primary one first, IPv4 before IPv6.
	Addresses []netip.Addr
	// Prefixes are delegated to it, IPv4 before IPv6.
	Prefixes []netip.Prefix
	// Type is EC2's interface type, such as interface, efa or trunk.
	Type string
	// Unreadable says which value of EC2's answer makes no sense. The ENI is then unknown: it exists, and no other field counts. ID is "" if
	// that is the value.
	Unreadable error
}

// Attachment is the attachment of an Interface to an instance.
type Attachment struct {
	ID, Instance             string
	DeviceIndex, NetworkCard int
	// Status is EC2's: attaching, attached, detaching or detached.
	Status              string
	DeleteOnTermination bool
}

// Instance is an EC2 instance.
type Instance struct {
	ID, Type, VPCID, SubnetID, Zone string
	// State is EC2's: pending, running, shutting-down, terminated, stopping or stopped.
	State string
	Tags  map[string]string
}

// InstanceType has the limits of a type that matter here.
type InstanceType struct {
	Name string
	// Interfaces is how many ENIs an instance has at most, the primary one included.
	Interfaces int
	// Cards are its network cards by index, at least one.
	Cards []Card
}

// Card is one network card of an instance type.
type Card struct {
	Index, Interfaces int
}

// Subnet is a subnet of a VPC.
type Subnet struct {
	ID, VPCID, Zone string
	// Name is its Name tag.
	Name string
	// CIDR is its IPv4 range; without one its first IPv6 range.
	CIDR netip.Prefix
	// Free is the number of free IPv4 addresses.
	Free int
}

// SecurityGroup is a security group of a VPC.
type SecurityGroup struct {
	ID, Name, VPCID string
}

// Creation has the parameters of CreateNetworkInterface. The same Token with other parameters is an error of EC2, therefore all are stored
// before the call.
type Creation struct {
	Token, SubnetID, Description string
	Groups                       []string
	Tags                         map[string]string
	// SecondaryAddresses, IPv6Addresses and Prefixes (of IPv4) are numbers; 0 asks for none.
	SecondaryAddresses, IPv6Addresses, Prefixes int
	Tracking                                    Tracking
}

// Tracking has the time-outs of connection tracking in seconds; 0 leaves EC2's default.
type Tracking struct {
	TCPEstablished, UDPStream, UDPTimeout int
}

// Joining has the parameters of AttachNetworkInterface.
type Joining struct {
	ENI, Instance            string
	DeviceIndex, NetworkCard int
	// EnaExpress asks for ENA Express on the attachment.
	EnaExpress bool
}

// Query selects Interfaces. All given fields must hold; values of one field are alternatives, at most 200.
type Query struct {
	// Tags are tag keys with their permitted values; no value permits any.
	Tags map[string][]string
	// Instances are the ids of the instances that they are attached to.
	Instances []string
	// Subnets are the ids of their subnets.
	Subnets []string
	// Status is EC2's; "" permits any.
	Status string
}

// Priority orders calls that wait for their action's bucket; equal ones go in the order of their coming.
type Priority int

// The priorities, the first one first. PriorityBulk is that of a context without one.
const (
	PriorityRelease Priority = iota - 2
	// PrioritySingle is for a change that one node or NodeENI waits for.
	PrioritySingle
	PriorityBulk
	PrioritySweep
)

type priorityKey struct{}

// WithPriority gives the calls of a context their priority.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

// PriorityOf returns a context's priority.
func PriorityOf(ctx context.Context) Priority {
	p, _ := ctx.Value(priorityKey{}).(Priority)
	return p
}

// ErrWithdrawn means: nobody wanted a call any more before it was sent.
var ErrWithdrawn = errors.New("withdrawn before it was sent")

type standingKey struct{}

// WhileStanding lets calls of a context wait only until standing ends, whose cause is their error then. No change is sent after that; a call that
// was sent goes on. A nil one does not end.
func WhileStanding(ctx, standing context.Context) context.Context {
	if standing == nil {
		return ctx
	}
	return context.WithValue(ctx, standingKey{}, standing)
}

// UntilSent returns a context for the time before a call is sent: it ends with ctx, and with the standing of WhileStanding. Call the function
// when it is not needed any more.
func UntilSent(ctx context.Context) (context.Context, func()) {
	standing, ok := ctx.Value(standingKey{}).(context.Context)
	if !ok {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(standing, func() { end(context.Cause(standing)) })
	return ctx, func() {
		stop()
		end(nil)
	}
}

// Standing returns why a change with this context must not be sent any more; nil if it may be.
func Standing(ctx context.Context) error {
	if standing, ok := ctx.Value(standingKey{}).(context.Context); ok {
		return context.Cause(standing) //nolint:contextcheck // that is the question
	}
	return nil
}

// Sample has resources of the region to ask for permissions with; "" for one that is not known. ENI is one with the cluster's tag, attached as
// Attachment to Instance.
type Sample struct {
	Cluster, Subnet, Group, ENI, Attachment, Instance string
}
