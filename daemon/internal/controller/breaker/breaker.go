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

// Breaker is an open breaker. Only the result of its trial, and a look that the trial asks for, changes it.
type Breaker struct {
	Reason, Message string
	Until           time.Time

	wait    time.Duration
	trying  bool // its trial is under way
	looking bool // its trial was forbidden, and a look tells whether that counts
}

// Call is a call under way, that has passed its breakers.
type Call struct {
	of   Breakers
	step lifecycle.Step
	// tries are the open breakers whose trial it is. Those that open while it is under way are not among them.
	tries map[string]*Breaker
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

// Try notes that a slot begins the call, which must have passed Closed. It is the trial of each breaker that is still open.
func (b Breakers) Try(step lifecycle.Step) Call {
	c := Call{of: b, step: step, tries: map[string]*Breaker{}}
	for _, k := range keys(step) {
		if open := b[k]; open != nil {
			open.trying, open.looking = true, false
			c.tries[k] = open
		}
	}
	return c
}

// tried: the call is the trial of this breaker, which is still open.
func (c Call) tried(key string) bool { return c.tries[key] != nil && c.tries[key] == c.of[key] }

// Ended notes the call's end. It closes, or lengthens, only the breakers whose trial the call was: EC2 may have answered any other one
// before they opened. A refusal opens a breaker where none is open.
func (c Call) Ended(err error, now time.Time) {
	for k, open := range c.tries {
		if c.tried(k) && err == nil {
			delete(c.of, k)
		}
		open.trying = false
	}
	action := c.step.Do.Call()
	var e *vpc.EC2Error
	switch {
	case !errors.As(err, &e):
	case e.Kind == vpc.EC2Forbidden && c.step.ENI != "":
		if c.tried(action) {
			open := c.of[action]
			open.looking, open.Until = true, now.Add(lookFor) // no other slot tries meanwhile
		}
	case e.Kind == vpc.EC2Forbidden:
		c.refused(action, forbidden(action), forbiddenFor, forbiddenFor, now)
	case e.Kind == vpc.EC2Unauthenticated:
		message := "EC2 does not take the controller's credentials: " + e.Remedy()
		c.refused(action, Breaker{Reason: lifecycle.Unauthenticated, Message: message}, unknownFor, unknownMost, now)
	case e.Kind == vpc.EC2SubnetFull && c.step.Do == lifecycle.Create:
		subnet := c.step.Slot.Subnet
		message := "subnet " + subnet + " has no free address: free some, or use another subnet"
		c.refused(subnet, Breaker{Reason: lifecycle.SubnetFull, Message: message}, fullFor, fullMost, now)
	}
}

// refused opens a breaker, or lengthens the one whose trial the call was.
func (c Call) refused(key string, as Breaker, first, most time.Duration, now time.Time) {
	if c.of[key] == nil || c.tried(key) {
		c.of.open(key, as, first, most, now)
	}
}

// Forbid notes that EC2 forbids an action. Ended does so by itself only for a call about no ENI: EC2 may also forbid a call because its ENI is
// gone, which only a look can tell. A breaker that is open stays as it is, unless its time is over or the look is about its trial.
func (b Breakers) Forbid(do lifecycle.Action, now time.Time) {
	if open := b[do.Call()]; open == nil || open.looking || !now.Before(open.Until) {
		b.open(do.Call(), forbidden(do.Call()), forbiddenFor, forbiddenFor, now)
	}
}

func forbidden(action string) Breaker {
	return Breaker{
		Reason: lifecycle.Forbidden, Message: "ec2:" + action + " is not permitted: give the controller's role deploy/iam/multi-enid-controller.json",
	}
}

// open opens a breaker, or lengthens it. Another reason than before begins with the first wait.
func (b Breakers) open(key string, as Breaker, first, most time.Duration, now time.Time) {
	open := b[key]
	if open == nil || open.Reason != as.Reason {
		open = &as
		b[key] = open
	}
	open.looking = false
	open.wait = min(max(first, 2*open.wait), most)
	open.Until = now.Add(open.wait)
}
