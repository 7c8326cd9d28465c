package reconcile

import (
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// configNode has the facts that the device plugin's config depends on besides our
// devices.
func (r *Reconciler) configNode(src inventory.Sources) pcidp.Node {
	return pcidp.Node{
		Facts: src.Functions.Value, Prefixes: r.plugin.Prefixes(),
		DefaultRoutes: func() map[string]bool {
			clutter, err := r.Host.Clutter()
			if err != nil {
				return nil // not known; clearLinks reports it where it matters
			}
			names := map[string]bool{}
			for _, l := range src.Links.Value {
				names[l.Name] = len(clutter.Defaults.Of(l.Index)) > 0
			}
			return names
		},
	}
}

// stillAtWork adds the reason for which the config is left alone to the findings
// before, once.
func stillAtWork(before []problem.Finding, problems []nodestate.Problem) []problem.Finding {
	found := slices.DeleteFunc(slices.Clone(before), func(f problem.Finding) bool { return f.Reason == reason.ConfigUnsettled })
	return problem.Append(found, problems)
}
