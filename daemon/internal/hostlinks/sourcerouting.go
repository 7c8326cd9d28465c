package hostlinks

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

// routeTries is how often the rules and routes are tried before an error is a Problem, each time with the links as they are by then. A
// link that went down, or into a pod, since it was read needs no rules, and its return is an event; one that is back from a
// pod has lost its routes meanwhile.
const routeTries = 3

// routeSources has packets from a ready ENI's addresses leave by its link, if that is up in the host. Without
// SourceRouting it removes once what an earlier run left.
func (l *Links) routeSources(src inventory.Sources, devices []nodestate.Device) []problem.Finding {
	if !src.Links.Known || !l.SourceRouting && l.sourcesCleared {
		return nil
	}
	var want []routing.Source
	links, changed, err := src.Links.Value, false, error(nil)
	for range routeTries {
		if l.SourceRouting {
			want = sourcesOf(devices, links)
		}
		var more bool
		more, err = l.Host.EnsureSources(want)
		changed = changed || more
		if err == nil {
			break
		}
		var unread error
		if links, unread = l.Host.Links(); unread != nil {
			break
		}
	}
	if err != nil {
		return []problem.Finding{problem.New(reason.SourceRoutingFailed,
			"the rules and routes of --source-routing cannot be made; the daemon tries again, and its log has the error", err)}
	}
	if changed {
		l.Log.WithField("links", len(want)).Debug("source-based routing changed") // with each pod
	}
	l.sourcesCleared = !l.SourceRouting
	return nil
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
