package attach

import (
	"fmt"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// refuseRouted refuses a link if the node needs its default routes of the host's main table.
// Otherwise routed says whether the link has any: a move takes them along, and for pods that
// share the link clearRoutes removes them.
//
// A device with a row in the inventory is never the primary ENI. The node needs its route if
// it is the family's only one, or has other next hops: the kernel deletes such an IPv4 route
// as a whole when one of its links leaves (fib_sync_down_dev, see
// docs/adr/0028-host-routes-of-declared-enis.md). Any other device may be the primary ENI, so
// each default route counts.
func (c *call) refuseRouted(cand candidate, l link.Link) (routed bool, err error) {
	all, err := c.host.DefaultRoutes()
	if err != nil {
		return false, err
	}
	own := all.Of(l.Index)
	if len(own) == 0 {
		return false, nil
	}
	if cand.row == nil {
		return true, refusal.New(refusal.Unsupported, "device %s (%s) carries the host's %s in the main table, and no NodeENI declares it, so it may be the primary ENI; "+
			"declare it by a NodeENI, or remove that route", cand.pci, l.Name, own[0])
	}
	if only, yes := all.Only(l.Index); yes {
		return true, refusal.New(refusal.Unsupported, "device %s (%s) carries the host's only %s in the main table, and the node would lose it; "+
			"add one through another link, or remove the route", cand.pci, l.Name, only)
	}
	if all.SharedBy(l.Index) {
		return true, refusal.New(refusal.Unsupported, "device %s (%s) is one of several next hops of the host's %s in the main table, "+
			"and removing it would remove the others; remove that next hop from the route", cand.pci, l.Name, own[0])
	}
	return true, nil
}

// clearRoutes removes the main table's default routes by a link that pods share: they would
// send the node's own packets out of the pods' ENI. Hold the claim lock. Unless alone, it
// removes nothing and returns errUntidy.
func (c *call) clearRoutes(cand candidate, l link.Link, alone bool) error {
	if !alone {
		return errUntidy
	}
	err := c.steps.Do("routes", func() error {
		n, err := c.host.RemoveDefaultRoutes(l.Index)
		if n > 0 {
			c.log.WithField("interface", l.Name).WithField("routes", n).Info("default routes removed from the host's main table")
		}
		return err
	})
	if err != nil { // the daemon repeats it
		return &refusal.Error{Code: refusal.TryAgain, Err: err,
			Msg: fmt.Sprintf("device %s (%s) has a default route in the host's main table that cannot be removed now; "+
				"each ADD and the daemon try again", cand.pci, l.Name)}
	}
	return nil
}
