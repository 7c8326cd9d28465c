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

const (
	// rivalRest is how long nothing is changed after somebody else has written a status.
	rivalRest = 10 * time.Minute
	// handOver is how long after the begin of a leadership the last writes of the leader before may still come.
	handOver = 30 * time.Second
)

// rivals is the knowledge about the public controller.
type rivals struct {
	lease *fleet.Rival
	// until is when the last foreign write of a status is forgotten, whose NodeENI is wrote.
	until time.Time
	wrote string
}

// paused: another controller is at work, therefore nothing is changed.
func (l *loop) paused() bool { return l.rivals.lease != nil || l.Now().Before(l.rivals.until) }

func (l *loop) firstRival() error {
	r, err := l.Cluster.Rival(l.ctx)
	if errors.Is(err, fleet.ErrForbidden) {
		return nil // Rival has logged it
	}
	l.rivals.lease = r
	return err
}

func (l *loop) askRival() {
	l.times.Set(rivalKey, l.Now().Add(rivalEvery))
	do(l, l.writes, vpc.PrioritySingle, func(ctx context.Context) (*fleet.Rival, error) { return l.Cluster.Rival(ctx) }, func(r *fleet.Rival, err error) {
		if err == nil { // else nobody knows: as before
			l.rivals.lease = r
		}
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
	l.rivals.until, l.rivals.wrote = l.Now().Add(rivalRest), d.object.Name
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
	if !l.said.Once("other", "") {
		return
	}
	why := "somebody else has written status.attachments of NodeENI " + l.rivals.wrote
	if r := l.rivals.lease; r != nil {
		why = "the Lease " + r.Namespace + "/" + fleet.LeaseName + " is held by " + r.Holder
	}
	why += ": no ENI is changed until it ends; scale the other controller to 0 (docs/migration.md)"
	l.Log.WithField("reason", told.OtherController).Warn(why)
	for name, d := range l.decls {
		l.tell(true, name, d.object.UID, "", told.OtherController, why)
	}
}
