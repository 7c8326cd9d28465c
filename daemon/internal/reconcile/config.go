package reconcile

import (
	"context"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// pluginConfig has the device plugin's config list the devices, and the device plugin serve it.
type pluginConfig struct {
	file      *pcidp.File
	files     *checkpoint.Files
	plugin    *pluginrestart.Restarter
	host      Host
	now       func() time.Time // the wall clock
	log       logrus.FieldLogger
	withdrawn bool                  // the config without any draining device is the served one
	serving   bool                  // the device plugin is verified to serve the config
	foreign   []device.ResourceName // the resources of people's entries in the config
	problems  []problem.Finding
}

// Problems are the findings of the last Step.
func (c *pluginConfig) Problems() []problem.Finding { return c.problems }

// Step writes the config with our entries, and steps the device plugin's restart. elsewhere are the resources that the
// daemon offers itself; then a missing file may stay missing. v gets the actions.
func (c *pluginConfig) Step(
	ctx context.Context, src inventory.Sources, devices []nodestate.Device, entries []pcidp.Entry, elsewhere []device.ResourceName, out *Outcome, v *view.View,
) {
	node := c.node(src)
	applied, err := c.file.Apply(pcidp.Request{
		Entries: entries, Optional: elsewhere != nil, Owned: c.files.Checkpoint.OwnedResources, LastGood: c.files.Checkpoint.LastGoodConfig,
		Node: node,
		SaveOwned: func(owned []device.ResourceName) error {
			c.plugin.Forget()
			return c.files.Save(func(cp *nodestate.Checkpoint) {
				cp.OwnedResources = owned
				c.plugin.Record(cp)
			})
		},
	})
	if err != nil {
		out.Unsettled = true
		c.problems = []problem.Finding{problem.On(c.file.Path, reason.ConfigUnwritable,
			"device plugin config %q cannot be read or written, so it may list outdated devices; read the daemon's log", c.file.Path).With(err)}
		return
	}
	out.sooner(applied.RetryAfter)
	if applied.RetryAfter > 0 { // somebody is editing it: the other findings still hold
		found := slices.DeleteFunc(slices.Clone(c.problems), func(f problem.Finding) bool { return f.Reason == reason.ConfigUnsettled })
		c.problems = problem.Append(found, applied.Problems)
		return
	}
	c.foreign = applied.Foreign
	applied.Foreign = slices.Concat(applied.Foreign, elsewhere) // the device plugin is not asked for them
	v.Config.Current, v.Config.Hash = applied.Hash != "" || elsewhere != nil && len(applied.Problems) == 0, applied.Hash
	if applied.Changed {
		c.log.WithFields(logrus.Fields{"path": c.file.Path, "hash": applied.Hash}).Info("device plugin config written")
	}
	v.Did.ConfigWritten = applied.Changed
	if applied.Hash != "" { // else the file is not ours to write
		v.Did.Restart = c.serve(ctx, applied, out)
	}
	found, forgotten := c.undeclared(applied, src, devices)
	found = problem.Append(found, slices.Concat(applied.Problems, c.plugin.Problems()))
	if len(applied.Content) > 0 && checkpoint.Config(applied.Content) == nil {
		found = append(found, problem.On(c.file.Path, reason.ConfigTooLarge,
			"device plugin config %q has more than %d octets, so the daemon keeps no last good copy of your entries; shorten it", c.file.Path, checkpoint.MaxConfig))
	}
	if err := c.files.Save(func(cp *nodestate.Checkpoint) {
		cp.OwnedResources, cp.PluginPrefixes, cp.Forgotten = applied.Owned, node.Prefixes, forgotten
		c.plugin.Record(cp)
		if len(applied.Content) > 0 {
			cp.LastGoodConfig = checkpoint.Config(applied.Content)
		}
	}); err != nil {
		out.Unsettled = true
		found = append(found, checkpoint.Unwritable(err))
	}
	c.problems = found
	c.withdrawn = applied.Hash == "" && len(applied.Owned) == 0 || c.plugin.Withdrawn(applied.Hash)
	c.serving = applied.Hash != "" && c.plugin.Serves(applied.Hash)
}

func (c *pluginConfig) serve(ctx context.Context, applied pcidp.Result, out *Outcome) *view.RestartDone {
	rendered := c.plugin.Prefixes()
	done, after := c.plugin.Step(ctx, c.now(), c.file.Path, applied)
	out.sooner(after)
	if !slices.Equal(rendered, c.plugin.Prefixes()) {
		out.sooner(time.Millisecond) // the config has to be rendered again
	}
	return done
}

func (c *pluginConfig) node(src inventory.Sources) pcidp.Node {
	return pcidp.Node{
		Facts: src.Functions.Value, Prefixes: c.plugin.Prefixes(),
		DefaultRoutes: func() map[string]bool {
			clutter, err := c.host.Clutter()
			if err != nil {
				return nil // unknown; hostlinks reports it where it matters
			}
			names := map[string]bool{}
			for _, l := range src.Links.Value {
				names[l.Name] = len(clutter.Defaults.Of(l.Index)) > 0
			}
			return names
		},
	}
}

// undeclared reports the entries of the config that have our form but no NodeENI, once a
// checkpoint was lost. forgotten says that there may still be some.
func (c *pluginConfig) undeclared(applied pcidp.Result, src inventory.Sources, devices []nodestate.Device) (found []problem.Finding, forgotten bool) {
	if forgotten = c.files.Checkpoint.Forgotten; !forgotten || !allKnown(src) || len(applied.Content) == 0 {
		return nil, forgotten
	}
	forgotten = false
	for name := range checkpoint.OwnEntries(applied.Content) {
		if slices.Contains(applied.Owned, name) {
			continue
		}
		forgotten = true
		if slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.ResourceName == name }) {
			continue // it may become ours
		}
		found = append(found, problem.On(c.file.Path, reason.CheckpointLost,
			"entry %s of the device plugin config has the form of the daemon's own, and no NodeENI declares it; it stays, because the daemon's memory (%s) was "+
				"not there when it started; delete it, or give it \"deviceType\": \"netDevice\" if it is yours",
			name, nodestate.CheckpointPath(c.files.StateDir)))
	}
	return found, forgotten
}
