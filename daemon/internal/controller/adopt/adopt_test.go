package adopt_test

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/adopt"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

func TestFindWantsAgreement(t *testing.T) {
	type facts struct {
		status v1alpha1.ENIAttachment
		eni    vpc.Interface
	}
	for name, tt := range map[string]struct {
		edit func(*facts)
		want bool
	}{
		"all agree":            {func(*facts) {}, true},
		"no subnet in status":  {func(f *facts) { f.status.SubnetID = "" }, true},
		"no attachment id":     {func(f *facts) { f.status.AttachmentID = "" }, true},
		"other attachment":     {func(f *facts) { f.status.AttachmentID = "eni-attach-2" }, false},
		"other node":           {func(f *facts) { f.status.NodeID = "node-2" }, false},
		"other instance":       {func(f *facts) { f.status.InstanceID = "i-2" }, false},
		"other subnet":         {func(f *facts) { f.status.SubnetID = "subnet-2" }, false},
		"other subnet in EC2":  {func(f *facts) { f.eni.SubnetID = "subnet-2" }, false},
		"other NodeENI's tag":  {func(f *facts) { f.eni.Tags[vpc.NodeENITag] = "green" }, false},
		"ours already":         {func(f *facts) { f.eni.Tags[slots.TagCluster] = "other" }, false},
		"not attached":         {func(f *facts) { f.eni.Attachment = nil }, false},
		"on another instance":  {func(f *facts) { f.eni.Attachment.Instance = "i-2" }, false},
		"EC2 does not know it": {func(f *facts) { f.status.ENIID = "eni-2" }, false},
	} {
		f := facts{
			v1alpha1.ENIAttachment{NodeID: "node-1", InstanceID: "i-1", ENIID: "eni-1", AttachmentID: "eni-attach-1", SubnetID: "subnet-1"},
			vpc.Interface{
				ID: "eni-1", SubnetID: "subnet-1", Tags: map[string]string{vpc.NodeENITag: "blue"},
				Attachment: &vpc.Attachment{ID: "eni-attach-1", Instance: "i-1"},
			},
		}
		tt.edit(&f)
		s := slots.Slot{NodeENI: slots.NodeENI{Name: "blue"}, Node: "node-1", Instance: "i-1", Subnet: "subnet-1"}
		got := adopt.Find([]v1alpha1.ENIAttachment{f.status}, s, func(id string) (vpc.Interface, bool) { return f.eni, id == f.eni.ID })
		if (got != nil) != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestDoubt: an ENI that the status names is in doubt unless it is somebody else's, which has satisfied the slot.
func TestDoubt(t *testing.T) {
	for name, tt := range map[string]struct {
		tags map[string]string
		want bool
	}{
		"the public controller's":              {map[string]string{vpc.NodeENITag: "blue", slots.TagNoManage: "true"}, true},
		"another NodeENI's":                    {map[string]string{vpc.NodeENITag: "green", slots.TagNoManage: "true"}, true},
		"without any tag":                      {nil, true},
		"ours":                                 {map[string]string{slots.TagCluster: "c", slots.TagNoManage: "true"}, false},
		"somebody else's, which has satisfied": {map[string]string{slots.TagNoManage: "true"}, false},
	} {
		v := vpc.Interface{ID: "eni-1", SubnetID: "subnet-1", Tags: tt.tags}
		status := []v1alpha1.ENIAttachment{{NodeID: "node-1", InstanceID: "i-1", ENIID: "eni-1", AttachmentID: "eni-attach-1", SubnetID: "subnet-1"}}
		s := slots.Slot{NodeENI: slots.NodeENI{Name: "blue"}, Node: "node-1", Instance: "i-1", Subnet: "subnet-1"}
		got := adopt.Doubt(status, s, nil, func(string) (vpc.Interface, bool) { return v, true })
		if (got != nil) != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
