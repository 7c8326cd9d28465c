// Package problem has the faults that the daemon finds: a Problem for people, and its error for the log.
package problem

import (
	"fmt"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Finding is a Problem and its cause. The text of Err may differ each time (ports,
// durations), so the inventory never shows it; nil for none.
type Finding struct {
	nodestate.Problem
	Err error
}

// New returns a finding about the whole node.
func New(why nodestate.Reason, message string, err error) Finding {
	return Finding{Problem: nodestate.Problem{Reason: why, Message: message}, Err: err}
}

// About returns a finding about a device, without an error.
func About(d nodestate.Device, why nodestate.Reason, format string, args ...any) Finding {
	f := On(d.ENIID.String(), why, format, args...)
	f.NodeENI = d.NodeENI
	return f
}

// On returns a finding about a device or a file, without an error.
func On(name string, why nodestate.Reason, format string, args ...any) Finding {
	return Finding{Problem: nodestate.Problem{Reason: why, Device: name, Message: fmt.Sprintf(format, args...)}}
}

// With adds the error behind the finding.
func (f Finding) With(err error) Finding {
	f.Err = err
	return f
}

// Append adds problems that have no error.
func Append(found []Finding, problems []nodestate.Problem) []Finding {
	for _, p := range problems {
		found = append(found, Finding{Problem: p})
	}
	return found
}

// List returns the problems of all findings as the inventory has them: sorted, and no more than fit.
func List(lists ...[]Finding) []nodestate.Problem {
	all := []nodestate.Problem{}
	for _, f := range slices.Concat(lists...) {
		all = append(all, f.Problem)
	}
	return inventory.FitProblems(all)
}
