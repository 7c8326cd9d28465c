package controller

import "github.com/multi-eni/multi-eni-cni/daemon/internal/slots"

// parks: an ENI of the NodeENI in this subnet outlives its instance.
func (l *loop) parks(d *decl, subnet string) bool {
	if d.object.Deleting || d.want.Spec.DeleteOnTermination == nil || *d.want.Spec.DeleteOnTermination {
		return false
	}
	return l.subnetsOf(d)[subnet]
}

// subnetsOf returns the ids of the NodeENI's subnets, as far as they are known.
func (l *loop) subnetsOf(d *decl) map[string]bool {
	ids, names, _, _ := slots.Need([]nodeENI{d.want})
	out := map[string]bool{}
	for _, id := range ids {
		out[id] = true
	}
	for _, name := range names {
		for _, s := range l.catalog.Known().SubnetNames[name] {
			out[s.ID] = true
		}
	}
	return out
}
