package controller

import (
	"context"
	"errors"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/told"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// handOver is how long after the begin of a leadership the last writes of the leader before may still come.
const handOver = 30 * time.Second

// paused: another controller is at work, therefore nothing is changed.
func (l *loop) paused() bool { return l.rivals.There(l.Now()) }

func (l *loop) firstRival() error {
	r, err := l.Cluster.Rival(l.ctx)
	if l.takeRival(r, err); errors.Is(err, fleet.ErrForbidden) {
		return nil // noteRival tells it
	}
	return err
}

// takeRival takes the answer of Rival. After an error that may pass nobody knows: as before.
func (l *loop) takeRival(r *fleet.Rival, err error) {
	switch {
	case errors.Is(err, fleet.ErrForbidden):
		l.rivals.Denied()
	case err == nil && r == nil:
		l.rivals.Lease("")
	case err == nil:
		l.rivals.Lease(r.String())
	}
}

func (l *loop) askRival() {
	l.times.Set(rivalKey, l.Now().Add(rivalEvery))
	do(l, l.writes, vpc.PrioritySingle, func(ctx context.Context) (*fleet.Rival, error) { return l.Cluster.Rival(ctx) }, func(r *fleet.Rival, err error) {
		l.takeRival(r, err)
		l.noteRival()
	})
}

// watchUpdated looks for a status that somebody else has written.
func (l *loop) watchUpdated(d *decl) {
	t := slots.LastUpdated(d.object.Is.Status.Attachments)
	if !t.After(d.updated) {
		return
	}
	d.updated = t
	if l.Now().Sub(l.began) < handOver {
		return
	}
	l.rivals.Wrote(d.object.Name, l.Now())
	l.noteRival()
}

// noteRival tells once that another controller is at work, and goes on when it has ended.
func (l *loop) noteRival() {
	paused := l.paused()
	l.Tally.OtherController(paused)
	if !paused {
		if l.said.Forget("other") {
			l.Log.Info("the other controller has ended: ENIs are changed again")
			l.lookAtAll()
		}
		return
	}
	l.rivals.Found()
	if !l.said.Once("other", "") {
		return
	}
	why := l.rivals.Why()
	l.Log.WithField("reason", told.OtherController).Warn(why)
	for name, d := range l.decls {
		l.tell(true, name, d.object.UID, "", told.OtherController, why)
	}
}
