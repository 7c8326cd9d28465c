package nodeeni

import (
	"context"
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Slots reads the controller's list in the own ENINodeState. Its Silent says why it is not known.
func Slots(ctx context.Context, c *client.Client) (inventory.Snapshot, error) {
	objects, err := nodeENIs{client: c.NodeENIs, trim: trimmer{node: c.NodeName, state: true}}.pages(ctx)
	if err != nil {
		return inventory.Snapshot{}, fmt.Errorf("read ENINodeState %s: %w", c.NodeName, err)
	}
	s := Source{client: c, own: &ownState{}, reported: true, now: time.Now, instance: func() string { return "" }} //nolint:forbidigo // SilentFor is unused
	for _, o := range objects.Items {
		s.own = newOwnState(nil, o.(*item)) //nolint:errcheck // pages makes nothing else
	}
	return s.listEntries(), nil
}

// SlotDrivers is Drivers by the controller's list.
func SlotDrivers(ctx context.Context, c *client.Client) (map[string][]string, error) {
	snap, err := Slots(ctx, c)
	drivers := map[string][]string{}
	for i := range snap.Objects {
		if o := snap.Objects[i].Defaulted(); o.Spec.Case() == v1alpha1.Case3DPDK {
			drivers[o.Spec.DPDKDriver] = append(drivers[o.Spec.DPDKDriver], o.Name)
		}
	}
	return drivers, err
}

// Drivers maps the userspace drivers that NodeENIs want on this node to the NodeENIs' names. It omits unreadable objects.
func Drivers(ctx context.Context, c *client.Client) (map[string][]string, error) {
	n, err := c.Node(ctx)
	if err != nil {
		return nil, err
	}
	var node nodeFacts
	if n != nil {
		node = factsOf(n)
	}
	list, err := nodeENIs{client: c.NodeENIs, trim: trimmer{node: c.NodeName}}.pages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list NodeENIs: %w", err)
	}
	drivers := map[string][]string{}
	for _, it := range list.Items {
		e := newEntry(nil, it.(*item)) //nolint:errcheck // pages makes nothing else
		o := e.object.Defaulted()
		if e.known && o.DeletionTimestamp == nil && o.Spec.Case() == v1alpha1.Case3DPDK && node.selects(o.Spec.NodeSelector) {
			drivers[o.Spec.DPDKDriver] = append(drivers[o.Spec.DPDKDriver], o.Name)
		}
	}
	return drivers, nil
}
