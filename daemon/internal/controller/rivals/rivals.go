// Package rivals remembers whether another controller is at work, beside which nothing may be changed.
package rivals

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// rest is how long nothing is changed after somebody else has written a status.
const rest = 10 * time.Minute

// Rivals is the knowledge about other controllers. It must not be used concurrently.
type Rivals struct {
	lease string // whose holder is at work; "" for none
	// denied: whether another controller has a Lease cannot be known. Two would harm more than none.
	denied bool
	// until is when the last foreign write of a status is forgotten, whose NodeENI is wrote.
	until time.Time
	wrote string

	ctx, alone context.Context //nolint:containedctx // alone stands for calls that wait, ctx for the leadership
	end        context.CancelCauseFunc
}

// New knows of no other controller.
func New(ctx context.Context) *Rivals { return &Rivals{ctx: ctx} }

// Lease takes the answer to the look for another controller's Lease: words about it, "" for none.
func (r *Rivals) Lease(words string) { r.lease, r.denied = words, false }

// Denied notes that the controller may not look for Leases.
func (r *Rivals) Denied() { r.denied = true }

// Wrote notes that somebody else has written the status of a NodeENI.
func (r *Rivals) Wrote(nodeENI string, now time.Time) { r.until, r.wrote = now.Add(rest), nodeENI }

// There reports whether another controller is, or may be, at work.
func (r *Rivals) There(now time.Time) bool { return r.denied || r.lease != "" || now.Before(r.until) }

// Alone returns a context that ends with New's, and when Found is called: a change that has not been sent by then is withdrawn.
func (r *Rivals) Alone() context.Context {
	if r.alone == nil {
		r.alone, r.end = context.WithCancelCause(r.ctx)
	}
	return r.alone
}

// Found ends the present context of Alone.
func (r *Rivals) Found() {
	if r.alone != nil {
		r.end(vpc.ErrWithdrawn)
		r.alone, r.end = nil, nil
	}
}

// Why names the other controller and the way out.
func (r *Rivals) Why() string {
	switch {
	case r.denied:
		return "the controller may not list Leases, so another controller may be at work: no ENI is changed; grant it as deploy/components/controller does"
	case r.lease != "":
		return r.lease + wayOut
	}
	return "somebody else has written status.attachments of NodeENI " + r.wrote + wayOut
}

const wayOut = ": no ENI is changed until it ends; scale the other controller to 0 (docs/migration.md)"
