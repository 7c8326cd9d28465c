// Package controller creates, attaches, releases and deletes ENIs, as a cluster's NodeENIs declare them. It connects EC2 and the API server
// with the decisions of packages slots and lifecycle, and decides nothing about a slot itself.
//
// One goroutine owns all state. Calls run in others, and come back to it as functions. Each node is looked at as a whole again whenever
// anything about it changes; one slot has at most one call under way.
package controller

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/tally"
)

// Options configure a controller. All are needed but the durations and AdoptPublic.
type Options struct {
	EC2     outside.EC2
	Cluster outside.Cluster
	Tally   *tally.Tally
	Log     logrus.FieldLogger
	Now     func() time.Time

	// ForceDetachAfter is --force-detach-after; 0 is never.
	ForceDetachAfter time.Duration
	LeakSweep        outside.Sweep
	// AdoptPublic takes the public controller's ENIs over.
	AdoptPublic bool
}

// Times of the controller.
const (
	resyncEvery = 10 * time.Minute
	rivalEvery  = 10 * time.Second
	// statusEvery is the least time between two writes of a NodeENI's status.
	statusEvery = 5 * time.Second
)

// Numbers of calls under way.
const (
	maxChanges = 64   // calls to EC2 that change something
	maxLooks   = 1024 // calls to EC2 that wait to be batched
	maxWrites  = 32   // calls to the API server
)

// Lead does the work of a leader until ctx ends, and returns when no call of it is under way any more. It knows nothing at first but the answers
// of EC2 and the API server.
func Lead(ctx context.Context, o Options) {
	ctx, cancel := context.WithCancel(ctx)
	l := newLoop(ctx, o)
	defer func() {
		cancel()
		l.changes.Wait()
		l.looks.Wait()
		l.writes.Wait()
		o.Tally.End()
	}()
	if l.begin() { //nolint:contextcheck // the loop has it
		l.run() //nolint:contextcheck // the loop has it
	}
}
