package controlplane

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/region"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/tally"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/control"
)

const (
	// endPatience bounds the wait for calls under way at the end. A pod has 30 s by default, and the Lease is given back after that.
	endPatience = 20 * time.Second
	// connectPatience bounds the search for region and credentials at the start.
	connectPatience = 30 * time.Second
)

// gcPercent is GOGC, if the environment has none: the controller mostly waits, and has a large cluster in its memory.
const gcPercent = 15

// run is the controller. It ends when ctx does, and leaves everything in place.
func (c *flags) run(ctx context.Context, p Program, log *logrus.Logger) error {
	if p.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	cluster, err := fleet.Connect(client.Config{Kubeconfig: c.kubeconfig, UserAgent: "multi-enid-controller/" + p.Version, Log: log},
		fleet.Options{Namespace: c.namespace, Identity: c.identity, Now: p.Now, Log: log})
	if err != nil {
		return err
	}
	counts := &tally.Tally{}
	server := control.New(control.Options{Version: p.Version, Now: p.Now, Log: log})
	ec2 := region.New(region.Config{
		Region: c.region, QPS: c.qps, Burst: c.burst, Guard: cluster.Fence, Now: p.Now,
		Observe: func(action, code string, _ time.Duration) { server.Called(action, code) },
	})
	server.State = func() control.State { return state(cluster, counts, ec2.Rates(), p.Now()) }
	if err := connect(ctx, ec2); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Run(ctx, c.listen); err != nil {
			stop(err)
		}
	}()
	log.WithFields(logrus.Fields{"version": p.Version, "namespace": c.namespace, "identity": c.identity}).Info("controller started")
	go cluster.Run(ctx)
	o := controller.Options{
		EC2: ec2, Cluster: cluster, Tally: counts, Log: log, Now: p.Now,
		ForceDetachAfter: c.forceDetachAfter, LeakSweep: outside.Sweep(c.leakSweep), AdoptPublic: c.adopt == adoptPublic,
	}
	if err := elect(ctx, cluster.Elect, func(ctx context.Context) { controller.Lead(ctx, o) }, log); err != nil {
		stop(err)
	}
	stop(nil)
	<-served
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	log.Info("controller stopped")
	return nil
}

// connect finds region and credentials, so that a controller without them never replaces a working one.
func connect(ctx context.Context, ec2 *region.Client) error {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	return ec2.Connect(ctx)
}

// elect leads whenever this process holds the Lease, until ctx ends. It then waits for calls under way, and after that Elect gives the Lease
// back. If they take too long, the Lease runs out instead: another leader must not begin before they have ended.
func elect(ctx context.Context, elect func(context.Context, func(context.Context)) error, lead func(context.Context), log logrus.FieldLogger) error {
	ended := make(chan error, 1)
	go func() { ended <- elect(ctx, lead) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(endPatience)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		log.Warnf("calls have been under way for %v: the Lease is not given back, and runs out", endPatience)
		return nil
	}
}

// state is the present, as metrics and probes have it.
func state(cluster *fleet.Fleet, counts *tally.Tally, rates map[string]float64, at time.Time) control.State {
	now := counts.Snapshot(at, string(lifecycle.Parked))
	return control.State{
		Synced: cluster.Unread() == nil, Leader: cluster.Leading(), Turned: now.Turned, OtherController: now.OtherController, Slots: now.Slots, Blocked: now.Blocked,
		Attach: control.Histogram(now.AttachSeconds), Leaked: now.Leaked, Parked: now.Parked, Waiting: now.ReleaseWait, Resynced: now.Resynced,
		Rates: rates, EventsDropped: cluster.Dropped(),
	}
}
