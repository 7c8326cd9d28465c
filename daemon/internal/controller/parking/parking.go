// Package parking says which ENIs outlive their instances: those of a NodeENI with deleteOnTermination false, in its subnets.
package parking

import (
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Rule is the rule of one NodeENI. Its zero value parks nothing.
type Rule struct {
	// Subnets are the ids of subnets in which its ENIs outlive their instances.
	Subnets map[string]bool
	// Unsure: ENIs in other subnets may too. The NodeENI cannot be read, or EC2 has not told yet which subnets have a name of it.
	Unsure bool
}

// Of returns the rule of a NodeENI that is not being deleted. Readable: it is the newest version.
func Of(o v1alpha1.NodeENI, readable bool, known slots.Catalog) Rule {
	switch keep := o.Spec.DeleteOnTermination; {
	case !readable:
		return Rule{Unsure: true}
	case keep == nil || *keep:
		return Rule{}
	}
	ids, names, _, _ := slots.Need([]v1alpha1.NodeENI{o})
	r := Rule{Subnets: map[string]bool{}}
	for _, id := range ids {
		r.Subnets[id] = true
	}
	for _, name := range names {
		list, answered := known.SubnetNames[name]
		r.Unsure = r.Unsure || !answered
		for _, s := range list {
			r.Subnets[s.ID] = true
		}
	}
	return r
}
