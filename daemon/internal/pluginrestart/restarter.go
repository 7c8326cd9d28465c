package pluginrestart

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	lookEvery = 5 * time.Minute  // the time between two looks at rest: no event reports a device plugin that is installed or removed
	lookApart = 5 * time.Second  // the least time between two looks, even after news
	readTime  = 10 * time.Second // readTime bounds the time from the start of a device plugin until it has read its config
)

// Options configure a Restarter. All are needed unless they say otherwise.
type Options struct {
	Plugin DevicePlugin // nil where somebody else restarts it: then the log says when that is due
	// Stat identifies the file at the config's path, without its Hash. Nil: the file system's own answer.
	Stat   func(path string) nodestate.SeenConfig
	Jitter time.Duration // added to the time after which a changed config counts as settled
	Wake   func()        // Wake has Step called again; it is called from other goroutines
	Commit func()        // Commit saves the checkpoint, with Record, before a restart begins
	Log    logrus.FieldLogger
}

// Restarter has the device plugin serve the config on disk. It calls the plugin in the background, one call at a time.
// Only Nudge is safe for concurrent use.
type Restarter struct {
	Options
	log       transitions
	schedule  schedule
	served    string // the hash of the config that the device plugin is known to serve; "" for unknown
	wanted    Wanted
	call      *call
	memory    nodestate.DevicePluginMemory // memory survives the daemon, by Record
	inspected bool                         // this daemon has looked at the config file
	// intact is the hash that was last on disk and served at once, at the time intactAt.
	intact          string
	intactAt        time.Time
	stepped, looked time.Time   // the time of the last Step, and looked the begin of the last call
	lookFailures    int         // lookFailures counts the looks that failed since the last success
	young           bool        // a run was seen that may not have read its config then
	nudged          atomic.Bool // there is news that the last call does not know of
	prefixes        []string    // prefixes were reported by the device plugins seen last, maybe in an earlier run
	view            view.PluginView
	problems        []nodestate.Problem
}

// New returns a Restarter without a past; Resume gives it one.
func New(o Options) *Restarter {
	if o.Stat == nil {
		o.Stat = statConfig
	}
	return &Restarter{
		Options: o, log: transitions{out: o.Log}, schedule: schedule{jitter: o.Jitter},
		view: view.PluginView{State: view.PluginUnknown},
	}
}

// Resume continues where the daemon that wrote the checkpoint stopped.
func (r *Restarter) Resume(c nodestate.Checkpoint) {
	r.served, r.log.served, r.memory = c.ConfirmedHash, c.ConfirmedHash, c.DevicePlugin
	r.prefixes = c.PluginPrefixes
	r.schedule.tried, r.schedule.failures = r.memory.Tried, r.memory.Failures
}

// Record puts everything but the prefixes into the checkpoint.
func (r *Restarter) Record(c *nodestate.Checkpoint) {
	c.ConfirmedHash, c.DevicePlugin = r.served, r.memory
	c.DevicePlugin.Tried, c.DevicePlugin.Failures = r.schedule.tried.UTC().Round(0), r.schedule.failures
}

// Nudge has the device plugin looked for at the next Step. It is safe for concurrent use.
func (r *Restarter) Nudge() {
	r.nudged.Store(true)
	r.Wake()
}

// Done is closed when the call under way has been answered; nil without a call.
func (r *Restarter) Done() <-chan struct{} {
	if r.call == nil {
		return nil
	}
	return r.call.done
}

// Prefixes are the -resource-prefix of the device plugins seen last.
func (r *Restarter) Prefixes() []string { return r.prefixes }

// Problems were reported by the last call that found the device plugin, or none.
func (r *Restarter) Problems() []nodestate.Problem { return r.problems }

// View describes the device plugin after the last Step.
func (r *Restarter) View() view.PluginView { return r.view }

// Withdrawn says that no device plugin offers more than the config of that hash lists, or will once it runs.
func (r *Restarter) Withdrawn(hash string) bool {
	return hash == r.served || r.schedule.suspended && r.schedule.hash == hash
}

// Serves says that the device plugin is verified to serve the config of that hash.
func (r *Restarter) Serves(hash string) bool { return r.served == hash }

// Distrust has the device plugin restarted although it has read its config: the kubelet no longer listens to it. Call it
// before the first Step.
func (r *Restarter) Distrust(now time.Time) {
	r.Forget()
	r.memory.ReadersOf, r.memory.Readers, r.memory.Seen.Since = "", nil, now.UTC().Round(0)
}

// Forget must be called before another config is written: from then on a new device plugin may read either.
func (r *Restarter) Forget() {
	if r.Plugin != nil {
		r.served = ""
	}
}

// Step takes the end of a call, and begins the next if it is due, for the config at path. It returns the end of a
// restart, or nil, and the time after which to step again; 0 for any time. now is the wall clock, with a monotonic
// reading.
func (r *Restarter) Step(ctx context.Context, now time.Time, path string, applied pcidp.Result) (*view.RestartDone, time.Duration) {
	r.want(path, applied)
	return r.step(ctx, now)
}

// want sets the config to serve. A resource whose entry is gone must offer nothing, unless people have an entry of that
// name.
func (r *Restarter) want(path string, a pcidp.Result) {
	devices := maps.Clone(a.Offered)
	for name := range r.wanted.Devices {
		if _, offered := devices[name]; !offered && !slices.Contains(a.Foreign, name) {
			devices[name] = []device.PCIAddress{}
		}
	}
	r.wanted = Wanted{Path: path, Hash: a.Hash, Devices: devices}
}

func (r *Restarter) step(ctx context.Context, now time.Time) (*view.RestartDone, time.Duration) {
	same := r.Plugin == nil || r.inspect(now)
	done := r.takeAnswer(now)
	if r.Plugin == nil {
		r.schedule.update(now, r.wanted.Hash, r.served)
		return nil, r.stepUnmanaged(now)
	}
	r.compare(now, same)
	r.schedule.update(now, r.wanted.Hash, r.served)
	if r.call != nil {
		if r.call.restart && r.call.want.Hash != r.wanted.Hash {
			r.call.outdated = true
			r.call.cancel()
		}
		r.show()
		return done, 0
	}
	looking := r.lookDue(now)
	if looking <= 0 && (r.nudged.Swap(false) || r.schedule.suspended) {
		r.schedule.retry()
	}
	due, wait := r.due(now)
	switch {
	case due || looking <= 0 && r.schedule.hash == "":
		r.begin(ctx, now, due)
	case r.nudged.Load() || r.schedule.hash == "" && (r.young || r.lookFailures > 0):
		if looking = max(looking, time.Millisecond); wait == 0 || looking < wait {
			wait = looking
		}
	}
	r.show()
	return done, wait
}

// compare forgets which config is served if the file has changed; same says that it has not.
func (r *Restarter) compare(now time.Time, same bool) {
	if setBack(r.stepped, now) {
		r.intact = "" // the start times of pods are wall-clock times
	}
	r.stepped = now
	if !same || r.wanted.Hash != r.served {
		r.Forget()
		return
	}
	r.intact, r.intactAt = r.served, now
}

// lookDue is the time until the device plugin is to be looked for; 0 or less for now.
func (r *Restarter) lookDue(now time.Time) time.Duration {
	every := lookEvery
	switch {
	case r.looked.IsZero() || now.Before(r.looked):
		return 0
	case r.nudged.Load():
		every = lookApart
	case r.lookFailures > 0:
		every = restartBackoff(r.lookFailures - 1)
	case r.young:
		every = readTime
	}
	return every - now.Sub(r.looked)
}

// stepUnmanaged logs when somebody would have to restart the device plugin.
func (r *Restarter) stepUnmanaged(now time.Time) time.Duration {
	r.view.State = view.PluginUnmanaged
	r.schedule.jitter = 0 // jitter keeps our own restarts apart from other nodes'
	due, wait := r.due(now)
	if !due {
		return wait
	}
	reason := "its config has changed"
	if r.served == "" {
		reason = "it is not known which config it serves"
	}
	r.log.out.WithFields(logrus.Fields{"reason": reason, "config": r.wanted.Hash, "served": r.served}).Info("would restart device plugin")
	r.schedule, r.served = schedule{}, r.wanted.Hash
	return time.Millisecond // devices that drained may go
}

// show updates the view.
func (r *Restarter) show() {
	r.view.ServedHash = r.served
	r.view.State, r.view.Message = r.state()
}

func (r *Restarter) state() (view.PluginState, string) {
	switch {
	case r.log.missing:
		return view.PluginNotFound, "this node has no SR-IOV device plugin pod; deploy one, or name its namespace and labels with --dp-namespaces and --dp-selectors"
	case r.call != nil && r.call.restart:
		return view.PluginRestarting, "the device plugin restarts, or the kubelet does not offer the devices of the new config yet"
	case r.schedule.hash != "" && r.schedule.failures > 0:
		return view.PluginFailed, "the device plugin does not serve its config; the daemon tries again, and its log has the error"
	case r.schedule.hash != "":
		return view.PluginPending, "the config has changed, and the device plugin will be restarted"
	case r.view.Pods == nil && r.lookFailures > 0:
		return view.PluginUnknown, "the device plugin cannot be looked for; the daemon tries again, and its log has the error"
	case r.view.Pods == nil:
		return view.PluginUnknown, "the device plugin has not been looked for yet"
	}
	return view.PluginServing, ""
}

// rebootWait bounds how long a restart waits after a reboot for advertised devices. They come one by one, and each
// would cost a restart.
const rebootWait = 2 * time.Minute

// AwaitDevices notes the devices that a restart waits for. before is the checkpoint, of another boot if rebooted.
func (r *Restarter) AwaitDevices(now time.Time, rebooted bool, before []nodestate.CheckpointDevice, devices []nodestate.Device) {
	m := &r.memory
	if rebooted {
		m.Late, m.LateUntil = nil, now.Add(rebootWait)
		for _, d := range before {
			if d.ENIID != "" && d.ResourceName != "" && (d.Advertised || d.Phase == nodestate.PhaseReady) {
				m.Late = append(m.Late, d.ENIID)
			}
		}
	}
	if latest := now.Add(rebootWait); m.LateUntil.After(latest) { // the clock was set back
		m.LateUntil = latest
	}
	awaited := slices.DeleteFunc(slices.Clone(m.Late), func(id device.ENIID) bool {
		return !now.Before(m.LateUntil) || !slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.ENIID == id && d.Phase == nodestate.PhasePending })
	})
	if m.Late = awaited; len(awaited) == 0 {
		m.Late, m.LateUntil = nil, time.Time{}
	}
}

// RecordAwaited puts only the devices of AwaitDevices into the checkpoint, so that its failure delays nothing else.
func (r *Restarter) RecordAwaited(c *nodestate.Checkpoint) {
	c.DevicePlugin.Late, c.DevicePlugin.LateUntil = r.memory.Late, r.memory.LateUntil
}

// due is the schedule's answer, delayed for the devices of AwaitDevices.
func (r *Restarter) due(now time.Time) (bool, time.Duration) {
	due, wait := r.schedule.due(now)
	if due && len(r.memory.Late) > 0 {
		if wait := r.memory.LateUntil.Sub(now); wait > 0 {
			return false, wait
		}
	}
	return due, wait
}
