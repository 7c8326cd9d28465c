package slots

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// MaxStatus is the greatest number of status.attachments of a NodeENI.
const MaxStatus = 500

// Entry is an entry of spec.attachments with its node.
type Entry struct {
	Node string
	v1alpha1.AttachmentEntry
}

// Status returns the public status.attachments of a NodeENI for its entries on all nodes. The result is old itself if nothing has changed. Fields of
// the public node agent stay. truncated is true if there are more than MaxStatus.
func Status(old []v1alpha1.ENIAttachment, entries []Entry, now time.Time) (list []v1alpha1.ENIAttachment, truncated, changed bool) {
	before := map[string]v1alpha1.ENIAttachment{}
	for _, a := range old {
		before[a.ENIID] = a
	}
	for _, e := range entries {
		state := publicState(e.Phase)
		if e.ENIID == "" || state == "" {
			continue
		}
		was, had := before[e.ENIID]
		a := was
		a.NodeID, a.InstanceID, a.ENIID, a.AttachmentID, a.SubnetID, a.SubnetCIDR = e.Node, e.InstanceID, e.ENIID, e.AttachmentID, e.SubnetID, e.SubnetCIDR
		a.MTU, a.DeviceIndex, a.Status = e.MTU, e.DeviceIndex, state
		if !had || a != was {
			a.LastUpdated = metav1.NewTime(now.Truncate(time.Second))
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b v1alpha1.ENIAttachment) int {
		return cmp.Or(cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.DeviceIndex, b.DeviceIndex), cmp.Compare(a.ENIID, b.ENIID))
	})
	if len(list) > MaxStatus {
		list, truncated = list[:MaxStatus], true
	}
	if slices.Equal(list, old) {
		return old, truncated, false
	}
	return list, truncated, true
}

// publicState is the word for a phase in the public status, "" for an ENI that is not attached.
func publicState(phase string) string {
	switch phase {
	case "Attached", "Ready", "Draining", "Released", "External":
		return "attached"
	case "Detaching":
		return "detaching"
	}
	return ""
}

// LastUpdated is the newest lastUpdated of a status; zero without any.
func LastUpdated(status []v1alpha1.ENIAttachment) (newest time.Time) {
	for i := range status {
		if t := status[i].LastUpdated.Time; t.After(newest) {
			newest = t
		}
	}
	return newest
}
