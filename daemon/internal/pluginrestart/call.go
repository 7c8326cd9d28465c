package pluginrestart

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// call is one call of the device plugin's methods, under way.
type call struct {
	// restart: it calls Restart, else Find. outdated: another config is wanted by now.
	restart, outdated  bool
	want               Wanted
	seen               nodestate.SeenConfig // the config file at the begin
	begun, triedBefore time.Time            // when it began, and triedBefore when the restart before it was tried
	cancel             context.CancelFunc
	// done is closed when report and err are set.
	done   chan struct{}
	report PluginReport
	err    error
}

// begin starts a call in the background.
func (r *Restarter) begin(ctx context.Context, now time.Time, restart bool) {
	want := r.wanted
	want.Written = r.memory.Seen.Since
	if want.Written.After(now) {
		want.Written = now // a later time would make each new pod too old
	}
	if want.Hash == r.intact {
		want.Before = r.intactAt.Add(-readTime)
	}
	want.Readers = make(map[nodestate.Reader]bool, len(r.memory.Readers))
	for _, run := range r.memory.Readers {
		want.Readers[run] = r.memory.ReadersOf == want.Hash
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &call{restart: restart, want: want, seen: r.memory.Seen, begun: now, triedBefore: r.schedule.tried, cancel: cancel, done: make(chan struct{})}
	r.call, r.looked = c, now
	if restart {
		r.schedule.tried = now // in case the daemon ends before the call
		r.Commit()
	}
	go func() {
		if restart {
			c.report, c.err = r.Plugin.Restart(ctx, want)
		} else {
			c.report, c.err = r.Plugin.Find(ctx)
		}
		close(c.done)
		r.Wake()
	}()
}

// takeAnswer handles the end of the call, if it has ended.
func (r *Restarter) takeAnswer(now time.Time) *view.RestartDone {
	c := r.call
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
	default:
		return nil
	}
	c.cancel()
	r.call = nil
	if len(c.report.Deleted) > 0 {
		r.view.LastRestart = now
	}
	missing, was := errors.Is(c.err, ErrNoDevicePlugin), r.log.missing
	if c.err == nil || missing || len(c.report.Pods) > 0 {
		r.problems = c.report.Problems
		r.view.Pods = c.report.Pods
		if len(c.report.Prefixes) > 0 { // else the last known ones stay: the plugin may come back
			r.prefixes = c.report.Prefixes
		}
		r.log.pluginMissing(missing)
	}
	untouched := c.want.Hash == r.wanted.Hash && c.seen.SameFile(r.memory.Seen)
	if !c.restart {
		r.takeLook(now, c, untouched && r.served == c.want.Hash)
		return nil
	}
	done := r.takeRestart(now, c, untouched)
	if missing && was {
		return nil // only the begin of this state is news
	}
	return done
}

// takeLook handles the end of Find; served says that the plugin serves the call's config.
func (r *Restarter) takeLook(now time.Time, c *call, served bool) {
	if r.lookFailures++; c.err == nil || errors.Is(c.err, ErrNoDevicePlugin) {
		r.lookFailures = 0
	}
	r.log.lookFailed(r.lookFailures > 0, c.err)
	if c.err == nil && served {
		r.noteReaders(c.report.Readers, now)
	}
}

// takeRestart handles the end of Restart. If untouched is false, another config is on disk, and the result is nil.
func (r *Restarter) takeRestart(now time.Time, c *call, untouched bool) *view.RestartDone {
	done := &view.RestartDone{Deleted: c.report.Deleted, Err: c.err, Took: now.Sub(c.begun)}
	switch {
	case errors.Is(c.err, ErrNoDevicePlugin):
		done.Result = view.RestartNoneFound
		r.schedule.tried = c.triedBefore
		r.schedule.suspend(c.want.Hash)
	case c.outdated && len(c.report.Deleted) == 0:
		r.schedule.tried = c.triedBefore
		return nil
	case c.outdated || !untouched:
		r.schedule.tried = now
		return nil
	case c.err == nil:
		done.Result = view.RestartVerified
		r.schedule.succeeded(now, c.want.Hash)
		r.served = c.want.Hash
		r.lookFailures = 0
		r.noteReaders(c.report.Readers, now)
		r.log.serves(c.report, c.want.Hash)
	default:
		done.Result = view.RestartFailed
		r.schedule.failed(now)
		r.log.restartFailed(c.err)
	}
	return done
}

// transitions logs each state of the device plugin when it begins and when it ends.
type transitions struct {
	out logrus.FieldLogger
	// failed: the last restart failed. missing: there is no device plugin. unseen: the last look failed.
	failed, missing, unseen bool
	served                  string // the hash of the config that was last logged as served
}

// restartFailed logs the first of several failures.
func (t *transitions) restartFailed(err error) {
	if !t.failed {
		t.out.WithError(err).Warn("device plugin restart failed, trying again")
	}
	t.failed = true
}

// serves logs a new config, a restart, or the end of failures.
func (t *transitions) serves(report PluginReport, hash string) {
	news := hash != t.served || t.failed || len(report.Deleted) > 0
	if t.served, t.failed = hash, false; !news {
		return
	}
	fields := logrus.Fields{"pods": report.Pods, "config": hash}
	if len(report.Deleted) > 0 {
		fields["deleted"] = report.Deleted
	}
	t.out.WithFields(fields).Info("device plugin serves its config")
}

func (t *transitions) pluginMissing(missing bool) {
	switch {
	case missing && !t.missing:
		t.out.Info("no device plugin on this node; one that comes reads the config as it is")
	case !missing && t.missing:
		t.out.Info("device plugin found")
	}
	t.missing = missing
}

func (t *transitions) lookFailed(failed bool, err error) {
	switch {
	case failed && !t.unseen:
		t.out.WithError(err).Warn("device plugin cannot be looked for, trying again")
	case !failed && t.unseen:
		t.out.Info("device plugin can be looked for again")
	}
	t.unseen = failed
}
