package reconcile

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// lookEvery is how often the device plugin is looked for while nothing is due:
// nothing tells of one that was installed or removed.
const lookEvery = 5 * time.Minute

// lookApart is the least time between two looks, whatever the news.
const lookApart = 5 * time.Second

// readsWithin is how long after its start a device plugin has read its config at
// the latest.
const readsWithin = 10 * time.Second

// keeper has the device plugin serve the config on disk. It calls the plugin in
// the background, one call after the other, so that no Sync waits for a pod.
type keeper struct {
	// plugin is nil where somebody else restarts it.
	plugin pluginrestart.DevicePlugin
	// wake has Sync run again; it is called when a call has ended.
	wake func()
	log  *logbook

	gate restartGate
	// served is the hash of the config that the device plugin is known to serve:
	// the checkpoint's, or a later one that could not be written there.
	served string
	wanted pluginrestart.Wanted
	call   *call
	// memory is kept for the next daemon; remembered adds the gate's part. Commit
	// makes it durable.
	memory nodestate.DevicePluginMemory
	commit func()
	// stat is Options.ConfigSeen. Sighted: it was called by this daemon.
	stat    func(path string) nodestate.SeenConfig
	sighted bool
	// intact is the config that was last on disk and served at once, at the time
	// intactAt.
	intact   string
	intactAt time.Time
	// stepped is when the last step was, and looked when the last call began; zero
	// before the first.
	stepped, looked time.Time
	// lookFailures is how many looks have failed since one that did not.
	lookFailures int
	// young: a run was seen that may not have read its config then.
	young bool
	// nudged: there is news that the last call does not know of.
	nudged atomic.Bool

	// prefixes belong to the device plugins that were seen last, in this run or an
	// earlier one; none before.
	prefixes []string

	view view.PluginView
	// problems are those of the last call that got that far.
	problems []nodestate.Problem
}

// call is one call of the device plugin's methods, under way.
type call struct {
	// restart: it is Restart, else Find. givenUp: its config was replaced.
	restart, givenUp bool
	want             pluginrestart.Wanted
	// seen is the file that it is about.
	seen nodestate.SeenConfig
	// begun is when it began, and before when the restart before it was tried.
	begun, before time.Time
	cancel        context.CancelFunc
	answer        chan answer // takes the one answer even when nobody comes for it
}

type answer struct {
	report pluginrestart.PluginReport
	err    error
}

// nudge has the device plugin looked for at the next step.
func (k *keeper) nudge() {
	k.nudged.Store(true)
	k.wake()
}

// want sets what the device plugin must be seen to serve. A resource that was
// offered at any time since the daemon started must have nothing once its entry
// is gone, unless people have an entry of that name.
func (k *keeper) want(path string, a pcidp.Result) {
	devices := maps.Clone(a.Offered)
	for name := range k.wanted.Devices {
		if _, offered := devices[name]; !offered && !slices.Contains(a.Foreign, name) {
			devices[name] = []device.PCIAddress{}
		}
	}
	k.wanted = pluginrestart.Wanted{Path: path, Hash: a.Hash, Devices: devices}
}

// step takes the end of a call, and begins the next if it is due. It returns the
// end of a restart and after how long to step again; 0 for no time in particular.
func (k *keeper) step(ctx context.Context, now time.Time) (*view.RestartDone, time.Duration) {
	same := k.plugin == nil || k.look(now)
	done := k.take(now)
	if k.plugin == nil {
		k.gate.observe(now, k.wanted.Hash, k.served)
		return k.unmanaged(now)
	}
	k.compare(now, same)
	k.gate.observe(now, k.wanted.Hash, k.served)
	if k.call != nil {
		if k.call.restart && k.call.want.Hash != k.wanted.Hash {
			k.call.givenUp = true // what it waits for will not come
			k.call.cancel()
		}
		k.show()
		return done, 0
	}
	looking := k.lookDue(now)
	if looking <= 0 && (k.nudged.Swap(false) || k.gate.parked) {
		k.gate.unpark()
	}
	due, wait := k.due(now)
	switch {
	case due || looking <= 0 && k.gate.hash == "":
		k.begin(ctx, now, due)
	case k.nudged.Load() || k.gate.hash == "" && (k.young || k.lookFailures > 0):
		if looking = max(looking, time.Millisecond); wait == 0 || looking < wait {
			wait = looking
		}
	}
	k.show()
	return done, wait
}

// compare forgets which config is served if the file has changed. Same says that the
// file is the one of the step before.
func (k *keeper) compare(now time.Time, same bool) {
	if setBack(k.stepped, now) {
		k.intact = "" // startedAt is wall-clock time
	}
	k.stepped = now
	if !same || k.wanted.Hash != k.served {
		k.forget()
		return
	}
	k.intact, k.intactAt = k.served, now
}

// lookDue is after how long the device plugin is to be looked for; 0 or less for
// now.
func (k *keeper) lookDue(now time.Time) time.Duration {
	every := lookEvery
	switch {
	case k.looked.IsZero() || now.Before(k.looked):
		return 0
	case k.nudged.Load():
		every = lookApart
	case k.lookFailures > 0:
		every = backOff(k.lookFailures - 1)
	case k.young:
		every = readsWithin
	}
	return every - now.Sub(k.looked)
}

// forget is called before another config is on disk, or when one is found there.
// Whatever starts from then on reads it, so that it is not known any more what is
// served, even should the one before be wanted again.
func (k *keeper) forget() {
	if k.plugin != nil {
		k.served = ""
	}
}

// unmanaged says when somebody would have to restart the device plugin.
func (k *keeper) unmanaged(now time.Time) (*view.RestartDone, time.Duration) {
	k.view.State = view.PluginUnmanaged
	k.gate.jitter = 0 // nobody's restart is to be kept apart from other nodes'
	due, wait := k.due(now)
	if !due {
		return nil, wait
	}
	reason := "its config has changed"
	if k.served == "" {
		reason = "it is not known which config it serves"
	}
	k.log.out.WithFields(logrus.Fields{"reason": reason, "config": k.wanted.Hash, "served": k.served}).Info("would restart device plugin")
	k.gate = restartGate{} // nor from the one before
	k.served = k.wanted.Hash
	return nil, time.Millisecond // what was draining may go
}

// begin starts a call in the background.
func (k *keeper) begin(ctx context.Context, now time.Time, restart bool) {
	want := k.wanted
	want.Written = k.memory.Seen.Since
	if want.Written.After(now) {
		want.Written = now // by a later one each new pod would be too old
	}
	if want.Hash == k.intact {
		want.Before = k.intactAt.Add(-readsWithin)
	}
	want.Readers = make(map[nodestate.Reader]bool, len(k.memory.Readers))
	for _, run := range k.memory.Readers {
		want.Readers[run] = k.memory.ReadersOf == want.Hash
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{restart: restart, want: want, seen: k.memory.Seen, begun: now, before: k.gate.tried, cancel: cancel, answer: make(chan answer, 1)}
	k.call, k.looked = c, now
	if restart {
		k.gate.tried = now // should the daemon end before the call does
		k.commit()
	}
	go func() {
		var a answer
		if restart {
			a.report, a.err = k.plugin.Restart(ctx, want)
		} else {
			a.report, a.err = k.plugin.Find(ctx)
		}
		c.answer <- a
		k.wake()
	}()
}

// take deals with the end of a call, if there is one.
func (k *keeper) take(now time.Time) *view.RestartDone {
	c := k.call
	if c == nil {
		return nil
	}
	var a answer
	select {
	case a = <-c.answer:
	default:
		return nil
	}
	c.cancel()
	k.call = nil
	if len(a.report.Deleted) > 0 {
		k.view.LastRestart = now
	}
	missing, was := errors.Is(a.err, pluginrestart.ErrNoDevicePlugin), k.log.missing
	if a.err == nil || missing || len(a.report.Pods) > 0 {
		k.problems = a.report.Problems
		k.view.Pods = a.report.Pods
		if len(a.report.Prefixes) > 0 { // else those known last: it may come back
			k.prefixes = a.report.Prefixes
		}
		k.log.pluginMissing(missing)
	}
	// untouched: the file of which the call has found out something is still there.
	untouched := c.want.Hash == k.wanted.Hash && c.seen.SameFile(k.memory.Seen)
	if !c.restart {
		k.takeLook(now, a, untouched && k.served == c.want.Hash)
		return nil
	}
	done := k.takeRestart(now, c, a, untouched)
	if missing && was {
		return nil // a state, of which the beginning is news
	}
	return done
}

// takeLook deals with the end of Find. Served says that the device plugin serves the
// config.
func (k *keeper) takeLook(now time.Time, a answer, served bool) {
	if k.lookFailures++; a.err == nil || errors.Is(a.err, pluginrestart.ErrNoDevicePlugin) {
		k.lookFailures = 0
	}
	k.log.lookFailed(k.lookFailures > 0, a.err)
	if a.err == nil && served {
		k.noteReaders(a.report.Readers, now)
	}
}

// takeRestart deals with the end of Restart. It returns nil when that says nothing
// of the config which is there now.
func (k *keeper) takeRestart(now time.Time, c *call, a answer, untouched bool) *view.RestartDone {
	done := &view.RestartDone{Deleted: a.report.Deleted, Err: a.err, Took: now.Sub(c.begun)}
	switch {
	case errors.Is(a.err, pluginrestart.ErrNoDevicePlugin):
		done.Result = view.RestartNoneFound
		k.gate.tried = c.before
		k.gate.park(c.want.Hash)
	case c.givenUp && len(a.report.Deleted) == 0:
		k.gate.tried = c.before
		return nil
	case c.givenUp || !untouched:
		k.gate.tried = now
		return nil
	case a.err == nil:
		done.Result = view.RestartVerified
		k.gate.succeeded(now, c.want.Hash)
		k.served = c.want.Hash
		k.lookFailures = 0
		k.noteReaders(a.report.Readers, now)
		k.log.served(a.report, c.want.Hash)
	default:
		done.Result = view.RestartFailed
		k.gate.failed(now)
		k.log.restartFailed(a.err)
	}
	return done
}

// show brings the view up to date.
func (k *keeper) show() {
	k.view.ServedHash = k.served
	k.view.State, k.view.Message = k.state()
}

func (k *keeper) state() (view.PluginState, string) {
	switch {
	case k.log.missing:
		return view.PluginNotFound, "this node has no SR-IOV device plugin pod; deploy one, or name its namespace and labels with --dp-namespaces and --dp-selectors"
	case k.call != nil && k.call.restart:
		return view.PluginRestarting, "the device plugin restarts, or the kubelet does not offer the devices of the new config yet"
	case k.gate.hash != "" && k.gate.failures > 0:
		return view.PluginFailed, "the device plugin does not serve its config; the daemon tries again, and its log has the error"
	case k.gate.hash != "":
		return view.PluginPending, "the config has changed, and the device plugin will be restarted"
	case k.view.Pods == nil && k.lookFailures > 0:
		return view.PluginUnknown, "the device plugin cannot be looked for; the daemon tries again, and its log has the error"
	case k.view.Pods == nil:
		return view.PluginUnknown, "the device plugin has not been looked for yet"
	}
	return view.PluginServing, ""
}

// withdrawn says that no device plugin offers anything that is not in the config
// of that hash, or will once it is running.
func (k *keeper) withdrawn(hash string) bool {
	return hash == k.served || k.gate.parked && k.gate.hash == hash
}
