// Package outside declares the calls that the controller makes to EC2 and of the API server.
package outside

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// EC2 is the region's EC2. A failed call is a *vpc.EC2Error. No call that changes something is tried twice, and each is refused without the Lease.
type EC2 interface {
	// Interfaces returns all ENIs of a query, Interface one of them.
	Interfaces(ctx context.Context, q vpc.Query) ([]vpc.Interface, error)
	Interface(ctx context.Context, id string) (vpc.Interface, error)
	// BySlot returns the ENIs with the tag of a slot, ByInstance those attached to an instance.
	BySlot(ctx context.Context, slot string) ([]vpc.Interface, error)
	ByInstance(ctx context.Context, id string) ([]vpc.Interface, error)
	Instance(ctx context.Context, id string) (vpc.Instance, error)
	InstanceType(ctx context.Context, name string) (vpc.InstanceType, error)
	// Subnets and SecurityGroups return those with one of the ids or names. Ids that do not exist are left out.
	Subnets(ctx context.Context, ids, names []string) ([]vpc.Subnet, error)
	SecurityGroups(ctx context.Context, ids, names []string) ([]vpc.SecurityGroup, error)

	Create(ctx context.Context, c vpc.Creation) (vpc.Interface, error)
	Attach(ctx context.Context, j vpc.Joining) (attachment string, err error)
	SetDeleteOnTermination(ctx context.Context, eni, attachment string, value bool) error
	SetGroups(ctx context.Context, eni string, groups []string) error
	SetSourceDestCheck(ctx context.Context, eni string, value bool) error
	SetTags(ctx context.Context, eni string, tags map[string]string) error
	Detach(ctx context.Context, attachment string, force bool) error
	Delete(ctx context.Context, eni string) error
}

// Cluster is the API server, as package fleet has it. Writes are refused without the Lease.
type Cluster interface {
	ClusterUID(ctx context.Context) (string, error)
	Snapshot() (fleet.Snapshot, error)
	NodeENI(name string) *fleet.Object[v1alpha1.NodeENI]
	Node(name string) *fleet.Object[fleet.Node]
	State(node string) *fleet.Object[fleet.State]
	Changed() <-chan struct{}
	Take() fleet.News
	Rival(ctx context.Context) (*fleet.Rival, error)

	WriteSpec(ctx context.Context, node string, seen *fleet.Object[fleet.State], spec v1alpha1.ENINodeStateSpec) error
	// Confirm is an error unless spec and status.released are as seen still, by the API server's own word.
	Confirm(ctx context.Context, node string, seen *fleet.Object[fleet.State]) error
	DeleteState(ctx context.Context, node, uid string) error
	WriteStatus(ctx context.Context, seen *fleet.Object[v1alpha1.NodeENI], attachments []v1alpha1.ENIAttachment) error
	AddFinalizer(ctx context.Context, seen *fleet.Object[v1alpha1.NodeENI]) error
	RemoveFinalizer(ctx context.Context, seen *fleet.Object[v1alpha1.NodeENI]) error
	SetCleanupStart(ctx context.Context, seen *fleet.Object[v1alpha1.NodeENI], at time.Time) error
	// Tell sends an Event, and does not wait.
	Tell(e fleet.Event)
}

// Sweep says how to treat ENIs that belong to no slot.
type Sweep string

// The values of --leak-sweep.
const (
	SweepDelete Sweep = "delete"
	SweepReport Sweep = "report"
	SweepOff    Sweep = "off"
)

// Same reports whether between the two nothing has changed that matters to nodes.
func Same(a, b *fleet.Object[v1alpha1.NodeENI]) bool {
	return a.Generation == b.Generation && a.Deleting == b.Deleting && a.Known == b.Known && a.Fault == b.Fault &&
		slices.Contains(a.Is.Finalizers, fleet.Finalizer) == slices.Contains(b.Is.Finalizers, fleet.Finalizer) && maps.Equal(a.Is.Annotations, b.Is.Annotations)
}
