package nodeeni

import (
	"context"
	"fmt"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

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
