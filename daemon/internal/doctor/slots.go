package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// slots examines the controller's list for this node; it says nothing where others name the ENIs.
func slots(ctx context.Context, o Options) []Finding {
	const check = "controller's list"
	if o.Slots == nil {
		return nil
	}
	snap, err := o.Slots(ctx)
	switch {
	case err != nil:
		return fail(check, "see the RBAC findings above, and whether the API server is healthy", "it cannot be read: %v", err)
	case snap.Silent != "":
		return fail(check, "run: multi-enid doctor --controller where the controller runs", "--attachments-from=controller: %s", snap.Silent)
	}
	phases := map[string]int{}
	var all []Finding
	for _, e := range snap.Entries {
		phases[e.Phase]++
		if e.Phase == "Blocked" {
			all = append(all, warn(check, "mend that; the controller tries again by itself", "slot %s of NodeENI %s is Blocked, %s: %s", e.Slot, e.NodeENI,
				e.Reason, e.Message)...)
		}
	}
	for _, p := range snap.Problems {
		all = append(all, fail(check, "run controller and daemon of one version", "%s", p.Message)...)
	}
	var counts []string
	for _, phase := range slices.Sorted(maps.Keys(phases)) {
		counts = append(counts, fmt.Sprintf("%d %s", phases[phase], phase))
	}
	if len(all) > 0 {
		return all
	}
	return ok(check, "--attachments-from=controller: %d slots on this node: %s", len(snap.Entries), list(counts))
}
