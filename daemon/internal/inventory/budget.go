package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// People may write any number of NodeENIs of up to 1.5 MiB, and the inventory, the checkpoint and the ENINodeState must
// have room. So unbounded fields share a budget. The smallest shares fit first, and a NodeENI whose share does not fit
// goes without.
const (
	maxENIs                 = 500         // No instance type of EC2 has as many ENIs
	namespaceBudget         = 1 << 20     // for the lists of allowed namespaces in all rows, in octets
	absentBudget            = 128 << 10   // for the rows of ENIs that this machine does not show, in octets
	problemBudget           = 256 << 10   // for the problems of all NodeENIs, in octets
	maxProblems, maxMessage = 20, 1 << 10 // maxProblems bounds the shown problems of one NodeENI, and maxMessage the octets of each message
)

// over returns the names whose shares do not fit into the budget, sorted.
func over(shares map[string]int, budget int) (names []string) {
	all := slices.SortedFunc(maps.Keys(shares), func(a, b string) int { return cmp.Or(cmp.Compare(shares[a], shares[b]), cmp.Compare(a, b)) })
	for i, name := range all {
		if budget -= shares[name]; budget < 0 {
			names = slices.Sorted(slices.Values(all[i:]))
			break
		}
	}
	return names
}

func (j *joiner) fitRows() {
	shares := map[string]int{}
	for i := range j.rows {
		if r := &j.rows[i]; j.absent(r) {
			shares[r.NodeENI] += rowSize + len(r.NodeENI)
		}
	}
	for _, name := range over(shares, absentBudget) {
		j.rows = slices.DeleteFunc(j.rows, func(r row) bool { return r.NodeENI == name && j.absent(&r) })
		j.noRoom(reason.TooManyENIs, name, "the NodeENIs of this node declare more missing ENIs than the inventory has room for, so those of this NodeENI "+
			"are left out; "+
			"correct its nodeSelector or its subnets")
	}
	clear(shares)
	for i := range j.rows {
		shares[j.rows[i].NodeENI] += listSize(j.rows[i].AllowedNamespaces)
	}
	for _, name := range over(shares, namespaceBudget) {
		for i := range j.rows {
			if j.rows[i].NodeENI == name {
				j.rows[i].AllowedNamespaces = []string{""} // which no namespace is
			}
		}
		j.noRoom(reason.AllowedNamespacesTooLong, name, "the list of allowed namespaces is too long: the inventory has room for %d octets of all such lists; "+
			"no pod may use the devices of this NodeENI until the list is shorter", namespaceBudget)
	}
}

// noRoom is problem without the bound of maxProblems.
func (j *joiner) noRoom(why nodestate.Reason, nodeENI, format string, args ...any) {
	j.problems = append(j.problems, nodestate.Problem{Reason: why, NodeENI: nodeENI, Message: fmt.Sprintf(format, args...)})
}

// rowSize is the approximate size of a row in octets.
const rowSize = 500

// absent says whether the ENI of a pending row is nowhere on this machine: any number of those can be declared.
func (j *joiner) absent(r *row) bool {
	_, listed := j.enis[r.ENIID]
	return r.Phase == nodestate.PhasePending && r.PCIAddress == "" && !listed
}

// listSize returns the size of a list in JSON, in octets.
func listSize(names []string) (octets int) {
	for _, name := range names {
		octets += len(name) + len(`"",`)
	}
	return octets
}

func (j *joiner) fitDeclarations(name string, d *declarations) {
	if len(d.enis) <= maxENIs {
		return
	}
	d.enis, d.undecided = d.enis[:maxENIs], true
	j.noRoom(reason.TooManyENIs, name, "this NodeENI declares more than %d ENIs for this node; only the first %[1]d count; shorten spec.subnetIDs or "+
		"status.attachments", maxENIs)
}

// FitProblems sorts problems and brings them within the budget. It changes the argument.
func FitProblems(all []nodestate.Problem) []nodestate.Problem {
	shares := map[string]int{}
	for i := range all {
		p := &all[i]
		p.Message = shorten(p.Message)
		if p.NodeENI != "" {
			shares[p.NodeENI] += len(p.Reason) + len(p.NodeENI) + len(p.Device) + len(p.Message)
		}
	}
	if hidden := over(shares, problemBudget); hidden != nil {
		all = slices.DeleteFunc(all, func(p nodestate.Problem) bool {
			_, found := slices.BinarySearch(hidden, p.NodeENI)
			return found
		})
		all = append(all, nodestate.Problem{Reason: reason.MoreProblems, Message: fmt.Sprintf(
			"the problems of %d more NodeENIs are not shown; mend the shown ones, or remove NodeENIs", len(hidden))})
	}
	return SortProblems(all)
}

func shorten(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + fmt.Sprintf("… (%d octets more)", len(message)-maxMessage)
}

func (j *joiner) moreProblems() {
	for _, name := range slices.Sorted(maps.Keys(j.said)) {
		if n := j.said[name] - maxProblems; n > 0 {
			j.problems = append(j.problems, nodestate.Problem{
				Reason: reason.MoreProblems, NodeENI: name, Message: fmt.Sprintf("%d more problems of this NodeENI are not shown; mend the shown ones", n),
			})
		}
	}
}
