package enis

import (
	"maps"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Values of EC2's status of an ENI and of its attachment.
const (
	Available = "available"
	Attaching = "attaching"
	Attached  = "attached"
	InUse     = "in-use"
	Detaching = "detaching"
)

// Attach is the write that attaches an ENI.
func Attach(attachment string, j vpc.Joining) Write {
	shown := func(v *vpc.Interface) bool { return v.Attachment != nil && v.Attachment.ID == attachment }
	return Write{shown: shown, apply: func(v *vpc.Interface) {
		if !shown(v) {
			v.Status = InUse
			v.Attachment = &vpc.Attachment{ID: attachment, Instance: j.Instance, DeviceIndex: j.DeviceIndex, NetworkCard: j.NetworkCard, Status: Attaching}
		}
	}}
}

// Detach is the write that begins to detach an ENI.
func Detach(attachment string) Write {
	return Write{
		shown: func(v *vpc.Interface) bool {
			return v.Attachment == nil || v.Attachment.ID != attachment || v.Attachment.Status == Detaching
		},
		apply: func(v *vpc.Interface) {
			if v.Attachment != nil && v.Attachment.ID == attachment {
				v.Attachment.Status = Detaching
			}
		},
	}
}

// DeleteOnTermination is the write of that flag of an attachment.
func DeleteOnTermination(attachment string, value bool) Write {
	is := func(v *vpc.Interface) bool { return v.Attachment != nil && v.Attachment.ID == attachment }
	return Write{
		shown: func(v *vpc.Interface) bool { return is(v) && v.Attachment.DeleteOnTermination == value },
		apply: func(v *vpc.Interface) {
			if is(v) {
				v.Attachment.DeleteOnTermination = value
			}
		},
	}
}

// Groups is the write of an ENI's security groups, sorted.
func Groups(ids []string) Write {
	return Write{shown: func(v *vpc.Interface) bool { return slices.Equal(v.Groups, ids) }, apply: func(v *vpc.Interface) { v.Groups = ids }}
}

// SourceDestCheck is the write of that attribute.
func SourceDestCheck(value bool) Write {
	return Write{shown: func(v *vpc.Interface) bool { return v.SourceDestCheck == value }, apply: func(v *vpc.Interface) { v.SourceDestCheck = value }}
}

// Tags is the write of tags; others stay.
func Tags(tags map[string]string) Write {
	return Write{
		shown: func(v *vpc.Interface) bool {
			for k, t := range tags {
				if v.Tags[k] != t {
					return false
				}
			}
			return true
		},
		apply: func(v *vpc.Interface) {
			all := maps.Clone(v.Tags)
			if all == nil {
				all = map[string]string{}
			}
			maps.Copy(all, tags)
			v.Tags = all
		},
	}
}
