// Package breaker keeps slots from repeating a call that has just failed for another slot: all creations in a full subnet, and each action
// without permission or credentials. When the time is over, one slot tries.
package breaker

import (
	"errors"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Times of the breakers.
const (
	forbiddenFor = 5 * time.Minute
	unknownFor   = 30 * time.Second
	unknownMost  = 5 * time.Minute
	fullFor      = 2 * time.Minute
	fullMost     = 10 * time.Minute
	lookFor      = 15 * time.Second
)

// Breakers are the breakers that are open, by EC2's action or by subnet. They must not be used concurrently.
type Breakers map[string]*Breaker

// Breaker is an open breaker.
type Breaker struct {
	Reason, Message string
	Until           time.Time

	wait   time.Duration
	trying bool
}

// keys are the breakers that a step must pass.
func keys(step lifecycle.Step) []string {
	if step.Do == lifecycle.Create {
		return []string{step.Do.Call(), step.Slot.Subnet}
	}
	return []string{step.Do.Call()}
}

// Closed is false with the breaker that is open.
func (b Breakers) Closed(step lifecycle.Step, now time.Time) (Breaker, bool) {
	for _, k := range keys(step) {
		if open := b[k]; open != nil && (open.trying || now.Before(open.Until)) {
			return *open, false
		}
	}
	return Breaker{}, true
}

// Try notes that a slot begins the call.
func (b Breakers) Try(step lifecycle.Step) {
	for _, k := range keys(step) {
		if open := b[k]; open != nil {
			open.trying = true
		}
	}
}

// Ended notes the call's end.
func (b Breakers) Ended(step lifecycle.Step, err error, now time.Time) {
	for _, k := range keys(step) {
		if open := b[k]; open != nil {
			open.trying = false
		}
	}
	var e *vpc.EC2Error
	switch {
	case err == nil:
		for _, k := range keys(step) {
			delete(b, k)
		}
	case !errors.As(err, &e):
	case e.Kind == vpc.EC2Forbidden && step.ENI != "":
		if open := b[step.Do.Call()]; open != nil {
			open.Until = now.Add(lookFor) // no other slot tries meanwhile
		}
	case e.Kind == vpc.EC2Forbidden:
		b.Forbid(step.Do, now)
	case e.Kind == vpc.EC2Unauthenticated:
		b.open(step.Do.Call(), lifecycle.Unauthenticated, "EC2 does not take the controller's credentials: "+e.Remedy(), unknownFor, unknownMost, now)
	case e.Kind == vpc.EC2SubnetFull && step.Do == lifecycle.Create:
		b.open(step.Slot.Subnet, lifecycle.SubnetFull, "subnet "+step.Slot.Subnet+" has no free address: free some, or use another subnet", fullFor, fullMost, now)
	}
}

// Forbid notes that EC2 forbids an action. Ended does so by itself only for a call about no ENI: EC2 may also forbid a call because its ENI is
// gone, which only a look can tell.
func (b Breakers) Forbid(do lifecycle.Action, now time.Time) {
	b.open(do.Call(), lifecycle.Forbidden, "ec2:"+do.Call()+" is not permitted: give the controller's role deploy/iam/multi-enid-controller.json",
		forbiddenFor, forbiddenFor, now)
}

func (b Breakers) open(key, reason, message string, first, most time.Duration, now time.Time) {
	open := b[key]
	if open == nil {
		open = &Breaker{Reason: reason, Message: message}
		b[key] = open
	}
	open.wait = min(max(first, 2*open.wait), most)
	open.Until = now.Add(open.wait)
}
