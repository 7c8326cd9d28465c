package reconcile

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// lookEvery is how often the device plugin is looked for while nothing is due:
// nothing tells of one that was installed or removed.
const lookEvery = 5 * time.Minute

// readsWithin is how long after its start a device plugin has read its config at
// the latest.
const readsWithin = 10 * time.Second

// keeper has the device plugin serve the config on disk. It calls the plugin in
// the background, one call after the other, so that no Sync waits for a pod.
type keeper struct {
	// plugin is nil where somebody else restarts it.
	plugin DevicePlugin
	// wake has Sync run again; it is called when a call has ended.
	wake func()
	log  *logbook

	gate restartGate
	// served is the hash of the config that the device plugin is known to serve:
	// the checkpoint's, or a later one that could not be written there.
	served string
	wanted Wanted
	call   *call
	// intact is the config that was last on disk and served at once, at the time
	// intactAt.
	intact   string
	intactAt time.Time
	// looked is when the last call began; zero before the first.
	looked time.Time
	// nudged: there is news that the last call does not know of.
	nudged atomic.Bool

	// prefixes belong to the device plugins that were seen last, in this run or an
	// earlier one; none before.
	prefixes []string

	view PluginView
	// problems are those of the last call that got that far.
	problems []nodestate.Problem
}

// call is one call of the device plugin's methods, under way.
type call struct {
	// restart: it is Restart, else Find. givenUp: its config was replaced.
	restart, givenUp bool
	want             Wanted
	begun            time.Time
	cancel           context.CancelFunc
	answer           chan answer // takes the one answer even when nobody comes for it
}

type answer struct {
	report PluginReport
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
	k.wanted = Wanted{Path: path, Hash: a.Hash, Devices: devices}
}

// step takes the end of a call, and begins the next if it is due. It returns the
// end of a restart and after how long to step again; 0 for no time in particular.
func (k *keeper) step(ctx context.Context, now time.Time) (*RestartDone, time.Duration) {
	done := k.take(now)
	if k.plugin == nil {
		k.gate.observe(now, k.wanted.Hash, k.served)
		return k.unmanaged(now)
	}
	if k.wanted.Hash == k.served {
		k.intact, k.intactAt = k.served, now
	} else {
		k.forget()
	}
	k.gate.observe(now, k.wanted.Hash, k.served)
	if k.call != nil {
		if k.call.restart && k.call.want.Hash != k.wanted.Hash {
			k.call.givenUp = true // what it waits for will not come
			k.call.cancel()
		}
		k.show()
		return done, 0
	}
	look := k.looked.IsZero() || now.Sub(k.looked) >= lookEvery || now.Before(k.looked)
	if k.nudged.Swap(false) || look && k.gate.parked {
		k.gate.unpark()
		look = true
	}
	due, wait := k.gate.due(now)
	if due || look && k.gate.hash == "" {
		k.begin(ctx, now, due)
	}
	k.show()
	return done, wait
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
func (k *keeper) unmanaged(now time.Time) (*RestartDone, time.Duration) {
	k.view.State = PluginUnmanaged
	k.gate.jitter = 0 // nobody's restart is to be kept apart from other nodes'
	due, wait := k.gate.due(now)
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
	want.Written = now // nobody can have read what is not there
	if info, err := os.Stat(want.Path); err == nil && info.ModTime().Before(now) {
		want.Written = info.ModTime() // by a later one each new pod would be too old
	}
	if want.Hash == k.intact {
		want.Before = k.intactAt.Add(-readsWithin)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{restart: restart, want: want, begun: now, cancel: cancel, answer: make(chan answer, 1)}
	k.call, k.looked = c, now
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
func (k *keeper) take(now time.Time) *RestartDone {
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
	missing, was := errors.Is(a.err, ErrNoDevicePlugin), k.log.missing
	if a.err == nil || missing || len(a.report.Pods) > 0 {
		k.problems = a.report.Problems
		k.view.Pods = a.report.Pods
		if len(a.report.Prefixes) > 0 { // else those known last: it may come back
			k.prefixes = a.report.Prefixes
		}
		k.log.pluginMissing(missing)
	}
	if !c.restart {
		return nil
	}
	done := &RestartDone{Report: a.report, Err: a.err, Took: now.Sub(c.begun)}
	switch {
	case missing:
		done.Result = RestartNoneFound
		k.gate.park(c.want.Hash)
		if was {
			return nil // a state, of which the beginning is news
		}
	case a.err == nil:
		done.Result = RestartVerified
		k.gate.succeeded(now, c.want.Hash)
		k.served = c.want.Hash
		k.log.served(a.report, c.want.Hash)
	case c.givenUp:
		if len(a.report.Deleted) > 0 {
			k.gate.tried = now
		}
		return nil
	default:
		done.Result = RestartFailed
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

func (k *keeper) state() (PluginState, string) {
	switch {
	case k.log.missing:
		return PluginNotFound, "no device plugin runs on this node; one that comes reads the config as it is"
	case k.call != nil && k.call.restart:
		return PluginRestarting, "the device plugin is being restarted, or seen to offer the devices of its new config"
	case k.gate.hash != "" && k.gate.failures > 0:
		return PluginFailed, "the device plugin does not serve its config, see the daemon's log; it is tried again"
	case k.gate.hash != "":
		return PluginPending, "the config has changed, and the device plugin will be restarted"
	case k.view.Pods == nil:
		return PluginUnknown, "the device plugin has not been looked for yet"
	}
	return PluginServing, ""
}

// withdrawn says that no device plugin offers anything that is not in the config
// of that hash, or will once it is running.
func (k *keeper) withdrawn(hash string) bool {
	return hash == k.served || k.gate.parked && k.gate.hash == hash
}
