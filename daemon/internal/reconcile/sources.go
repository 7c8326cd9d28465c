package reconcile

import (
	"net/netip"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// routeSources has what comes from an ENI's addresses leave by that ENI, for each
// that is ready and whose link is up in the host. Where that is switched off, what
// an earlier run has left is removed once.
func (r *Reconciler) routeSources(src inventory.Sources, devices []nodestate.Device) []problem.Finding {
	if !src.Links.Known || !r.SourceRouting && r.sourcesCleared {
		return nil
	}
	var want []routing.Source
	if r.SourceRouting {
		want = sourcesOf(devices, src.Links.Value)
	}
	changed, err := r.Host.EnsureSources(want)
	if err != nil {
		want, changed, err = r.withoutTaken(want, devices, changed, err)
	}
	if err != nil {
		f := problem.New(reason.SourceRoutingFailed, "the rules and routes of --source-routing cannot be made; the daemon tries again, and its log has the error", err)
		return []problem.Finding{f}
	}
	if changed {
		r.Log.WithField("links", len(want)).Debug("source-based routing changed") // with each pod
	}
	r.sourcesCleared = !r.SourceRouting
	return nil
}

// withoutTaken tries again without the links that a pod has taken, or that went down, since
// they were read. Such a link needs no rules, and its return is an event. It returns the
// sources that it asked for in the end.
func (r *Reconciler) withoutTaken(want []routing.Source, devices []nodestate.Device, changed bool, err error) ([]routing.Source, bool, error) {
	links, unread := r.Host.Links()
	if unread != nil {
		return want, changed, err
	}
	still := sourcesOf(devices, links)
	if len(still) >= len(want) {
		return want, changed, err
	}
	more, err := r.Host.EnsureSources(still)
	return still, changed || more, err
}

func sourcesOf(devices []nodestate.Device, links []link.Link) (all []routing.Source) {
	for _, d := range devices {
		i := slices.IndexFunc(links, func(l link.Link) bool { return l.Name == d.InterfaceName && l.MAC == d.MAC })
		if d.Phase != nodestate.PhaseReady || d.InterfaceName == "" || i < 0 || !links[i].Up {
			continue
		}
		s := routing.Source{Index: links[i].Index, From: d.Prefixes}
		for _, a := range d.Addresses {
			s.From = append(s.From[:len(s.From):len(s.From)], netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
			s.Subnets = append(s.Subnets, a.Masked())
			if router := nodestate.Router(a); router.IsValid() && !slices.ContainsFunc(s.Routers, netip.Addr.Is4) {
				s.Routers = append(s.Routers, router)
			}
		}
		if len(s.From) > 0 {
			all = append(all, s)
		}
	}
	return all
}
