// Package adopt finds the ENIs of the public controller that may become ours.
package adopt

import (
	"fmt"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Find returns the public controller's ENI for a slot, if the NodeENI's status, EC2's tags and the instance agree on it; nil for none. eni
// returns an ENI as EC2 shows it.
func Find(status []v1alpha1.ENIAttachment, s slots.Slot, eni func(id string) (vpc.Interface, bool)) *vpc.Interface {
	for _, a := range status {
		if a.NodeID != s.Node || a.InstanceID != s.Instance || a.SubnetID != "" && a.SubnetID != s.Subnet {
			continue
		}
		v, ok := eni(a.ENIID)
		if ok && public(v, s) && (a.AttachmentID == "" || a.AttachmentID == v.Attachment.ID) {
			return &v
		}
	}
	return nil
}

// public: the ENI has the public controller's tags for the slot's NodeENI, none of ours, and the slot's place.
func public(v vpc.Interface, s slots.Slot) bool {
	return v.Unreadable == nil && v.SubnetID == s.Subnet && v.Tags[slots.TagCluster] == "" && v.Tags[vpc.NodeENITag] == s.NodeENI.Name &&
		v.Attachment != nil && v.Attachment.Instance == s.Instance
}

// Conflict is the reason of a slot for which Doubt has found an ENI.
const Conflict = "AdoptionConflict"

// Doubt finds an ENI that may be the public controller's for a slot, although status, tags and instance do not agree on it; nil for none. Another ENI
// must not be made beside it. attached are the ENIs of the slot's instance.
func Doubt(status []v1alpha1.ENIAttachment, s slots.Slot, attached []vpc.Interface, eni func(id string) (vpc.Interface, bool)) *slots.Fault {
	for _, a := range status {
		if a.NodeID != s.Node || a.InstanceID != s.Instance || a.SubnetID != "" && a.SubnetID != s.Subnet {
			continue
		}
		if v, ok := eni(a.ENIID); ok && v.Tags[slots.TagCluster] == "" && !slots.Foreign(v) && (a.SubnetID != "" || v.SubnetID == s.Subnet) {
			return conflict(s, v, fmt.Sprintf("%s on %s, attachment %q", a.ENIID, a.InstanceID, a.AttachmentID))
		}
	}
	for _, v := range attached {
		if public(v, s) {
			return conflict(s, v, "no such ENI on "+s.Instance)
		}
	}
	return nil
}

func conflict(s slots.Slot, v vpc.Interface, status string) *slots.Fault {
	place := "nothing"
	if a := v.Attachment; a != nil {
		place = fmt.Sprintf("%s (%s)", a.Instance, a.ID)
	}
	return &slots.Fault{Reason: Conflict, NodeENI: s.NodeENI, Node: s.Node, Message: fmt.Sprintf(
		"%s is not taken over for NodeENI %s on node %s: status.attachments has %s; its tag NodeENI is %q; EC2 has it in %s, attached to %s: "+
			"correct the status or the tag, or delete the ENI",
		v.ID, s.NodeENI.Name, s.Node, status, v.Tags[vpc.NodeENITag], v.SubnetID, place)}
}
