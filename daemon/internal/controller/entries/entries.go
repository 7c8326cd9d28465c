// Package entries compares the entries of an ENINodeState's spec.
package entries

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	pure "github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Spec returns the spec with these entries, in the order of their slots.
func Spec(list []*v1alpha1.AttachmentEntry) v1alpha1.ENINodeStateSpec {
	s := v1alpha1.ENINodeStateSpec{Protocol: v1alpha1.Protocol}
	for _, e := range list {
		s.Attachments = append(s.Attachments, *e)
	}
	slices.SortFunc(s.Attachments, func(a, b v1alpha1.AttachmentEntry) int { return cmp.Compare(a.Slot, b.Slot) })
	return s
}

// Equal compares the present spec with the wanted one. Without an ENINodeState, an empty one is wanted.
func Equal(now *v1alpha1.ENINodeStateSpec, want v1alpha1.ENINodeStateSpec) bool {
	if now == nil {
		return len(want.Attachments) == 0
	}
	return equality.Semantic.DeepEqual(*now, want)
}

// Urgent says whether the daemon waits for the change from the present spec to the wanted one.
func Urgent(now *v1alpha1.ENINodeStateSpec, want v1alpha1.ENINodeStateSpec) bool {
	if now == nil {
		return true
	}
	before := map[string]*v1alpha1.AttachmentEntry{}
	for i := range now.Attachments {
		before[now.Attachments[i].Slot] = &now.Attachments[i]
	}
	for i := range want.Attachments {
		e := &want.Attachments[i]
		was := before[e.Slot]
		switch {
		case was == nil || was.Wanted != e.Wanted || was.Release != e.Release:
			return true
		case was.Phase != e.Phase && (e.Phase == string(lifecycle.Attached) || e.Phase == string(lifecycle.External)):
			return true
		}
	}
	return false
}

// Of returns the spec's entry of a slot, if it has one.
func Of(now v1alpha1.ENINodeStateSpec, slot string) (e v1alpha1.AttachmentEntry, ok bool) {
	i := slices.IndexFunc(now.Attachments, func(e v1alpha1.AttachmentEntry) bool { return e.Slot == slot })
	if i < 0 {
		return e, false
	}
	return now.Attachments[i], true
}

// Public completes the entries of a NodeENI for its public status. An attached ENI's place in the status stays as it is if the ENI is another's, or if its
// slot is on the way to it: while it is being adopted, for instance, or one of its attributes is being changed. The public controller takes an
// ENI that its status lacks for missing, and creates another one. eni returns an ENI as EC2 shows it; adopt says that its tag NodeENI does not count.
func Public(
	list []pure.Entry, nodeENI string, status []v1alpha1.ENIAttachment, adopt bool, eni func(id string) (vpc.Interface, bool),
) []pure.Entry {
	for _, a := range status {
		v, ok := eni(a.ENIID)
		if a.Status != "attached" || !ok || v.Attachment == nil {
			continue
		}
		i := slices.IndexFunc(list, func(e pure.Entry) bool {
			return e.ENIID == a.ENIID || e.ENIID == "" && e.Slot == v.Tags[pure.TagSlot]
		})
		switch {
		case i >= 0 && list[i].InstanceID == a.InstanceID && onItsWay(list[i].Phase) && v.Attachment.Instance == a.InstanceID:
			list[i] = public(a)
		case i < 0 && v.Tags[pure.TagCluster] == "" && (adopt && !pure.Foreign(v) || v.Tags[vpc.NodeENITag] == nodeENI):
			list = append(list, public(a))
		}
	}
	return list
}

// onItsWay: the phase comes before Attached, or instead of it.
func onItsWay(phase string) bool {
	switch lifecycle.Phase(phase) {
	case lifecycle.Wanted, lifecycle.Creating, lifecycle.Created, lifecycle.Attaching, lifecycle.Blocked:
		return true
	default:
		return false
	}
}

// public is an entry that leaves its attachment in the status as it is.
func public(a v1alpha1.ENIAttachment) pure.Entry {
	return pure.Entry{Node: a.NodeID, AttachmentEntry: v1alpha1.AttachmentEntry{
		InstanceID: a.InstanceID, ENIID: a.ENIID, AttachmentID: a.AttachmentID, SubnetID: a.SubnetID, SubnetCIDR: a.SubnetCIDR, MTU: a.MTU,
		DeviceIndex: a.DeviceIndex, Phase: string(lifecycle.Attached),
	}}
}

// StandsStill reports whether the slot does not go on by itself. A release that waits for its node is counted by its time.
func StandsStill(e v1alpha1.AttachmentEntry) bool {
	switch e.Reason {
	case "", lifecycle.Throttled, lifecycle.DeviceInUse, lifecycle.WaitingForNode, lifecycle.DaemonTooOld:
		return false
	case lifecycle.IndexTaken:
		return e.Phase == string(lifecycle.Blocked)
	}
	return true
}
