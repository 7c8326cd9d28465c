// Package adopt finds the ENIs of the public controller that may become ours.
package adopt

import (
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
