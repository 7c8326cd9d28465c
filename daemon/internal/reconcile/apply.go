package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// applyConfig brings the device plugin's config, and with time the device
// plugin, to serve the devices.
func (r *Reconciler) applyConfig(ctx context.Context, src inventory.Sources, devices []nodestate.Device, out *Outcome) []problem.Finding {
	node := r.configNode(src)
	applied, err := r.Config.Apply(pcidp.Request{
		Entries: pcidp.Desired(devices), Owned: r.checkpoint.OwnedResources, LastGood: r.checkpoint.LastGoodConfig,
		Node: node,
		SaveOwned: func(owned []device.ResourceName) error {
			r.plugin.Forget()
			return r.save(func(c *nodestate.Checkpoint) {
				c.OwnedResources = owned
				r.plugin.Record(c)
			})
		},
	})
	if err != nil {
		out.Unsettled = true
		return []problem.Finding{{Problem: nodestate.Problem{
			Reason: reason.ConfigUnwritable, Device: r.Config.Path,
			Message: fmt.Sprintf("device plugin config %q cannot be read or written, so it may list outdated devices; read the daemon's log", r.Config.Path),
		}, Err: err}}
	}
	out.sooner(applied.RetryAfter)
	if applied.RetryAfter > 0 { // somebody is at work on it: the earlier findings still stand
		return stillAtWork(r.lateConfig, applied.Problems)
	}
	r.view.Config.Current, r.view.Config.Hash = applied.Hash != "", applied.Hash
	if applied.Changed {
		r.Log.WithFields(logrus.Fields{"path": r.Config.Path, "hash": applied.Hash}).Info("device plugin config written")
	}
	r.view.Did.ConfigWritten = applied.Changed
	if applied.Hash != "" { // else the file is not ours to write
		r.withdrawRemovals()
		r.serve(ctx, applied, out)
	}
	found, forgotten := r.entriesOfNobody(applied.Content, applied.Owned, src, devices)
	found = problem.Append(found, slices.Concat(applied.Problems, r.plugin.Problems()))
	found = append(found, r.notRemembered(applied.Content)...)
	if err := r.save(func(c *nodestate.Checkpoint) {
		c.OwnedResources, c.PluginPrefixes, c.Forgotten = applied.Owned, node.Prefixes, forgotten
		r.plugin.Record(c)
		if len(applied.Content) > 0 {
			c.LastGoodConfig = remembered(applied.Content)
		}
	}); err != nil {
		out.Unsettled = true
		found = append(found, unwritable(err))
	}
	r.withdrawn = applied.Hash == "" && len(applied.Owned) == 0 || r.plugin.Withdrawn(applied.Hash)
	return found
}

// serve makes the device plugin serve the applied config, in the background.
func (r *Reconciler) serve(ctx context.Context, applied pcidp.Result, out *Outcome) {
	rendered := r.plugin.Prefixes()
	done, after := r.plugin.Step(ctx, r.Now(), r.Config.Path, applied)
	r.view.Did.Restart = done
	out.sooner(after)
	if !slices.Equal(rendered, r.plugin.Prefixes()) {
		out.sooner(time.Millisecond) // the config was rendered for others
	}
}
