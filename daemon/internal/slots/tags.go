package slots

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Tags that the public controller gives to its ENIs.
const (
	TagName      = "Name"
	TagNode      = "Node"
	TagSubnet    = "SubnetID"
	TagManagedBy = "kubernetes.io/cluster/managed-by"
	ManagedBy    = "nodeeni-controller"
	TagNoManage  = "node.k8s.amazonaws.com/no_manage"
)

// TagPrefix begins each tag of this controller alone.
const TagPrefix = "multi-eni.networking.k8s.aws/"

// Tags of this controller alone.
const (
	TagCluster  = TagPrefix + "cluster"
	TagNodeENI  = TagPrefix + "nodeeni-uid"
	TagSlot     = TagPrefix + "slot"
	TagInstance = TagPrefix + "instance"
)

var ownTags = []string{TagName, vpc.NodeENITag, TagNode, TagSubnet, TagManagedBy, TagNoManage, TagCluster, TagNodeENI, TagSlot, TagInstance}

func reserved(key string) bool {
	return slices.Contains(ownTags, key) || strings.HasPrefix(key, TagPrefix) || strings.HasPrefix(strings.ToLower(key), "aws:")
}

// Tags returns the tags of the slot's ENI. No tag holds a time, because a repeated request must be the same.
func Tags(s Slot, cluster string) map[string]string {
	tags := maps.Clone(s.Options.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	maps.Copy(tags, map[string]string{
		TagName: name(s), vpc.NodeENITag: s.NodeENI.Name, TagNode: s.Node, TagSubnet: s.Subnet, TagManagedBy: ManagedBy, TagNoManage: "true",
		TagCluster: cluster, TagNodeENI: s.NodeENI.UID, TagSlot: string(s.ID), TagInstance: s.Instance,
	})
	return tags
}

// name returns the Name tag, at most 256 characters: the middle gives way.
func name(s Slot) string {
	end := "-" + s.Subnet[max(len(s.Subnet)-8, 0):]
	begin := fmt.Sprintf("nodeeni-%s-%s", s.NodeENI.Name, s.Node)
	return begin[:min(len(begin), maxTagValue-len(end))] + end
}

// Token returns the ClientToken of an attempt.
func Token(s Slot, attempt int) string { return fmt.Sprintf("%s-%d", s.ID, attempt) }

// Creation returns the parameters with which an attempt creates the slot's ENI.
func Creation(s Slot, cluster string, attempt int) vpc.Creation {
	o := s.Options
	return vpc.Creation{
		Token: Token(s, attempt), SubnetID: s.Subnet, Description: o.Description, Groups: s.Groups, Tags: Tags(s, cluster),
		SecondaryAddresses: o.SecondaryAddresses, IPv6Addresses: o.IPv6Addresses, Prefixes: o.Prefixes, Tracking: o.Tracking,
	}
}

// Joining returns the parameters with which an ENI is attached for the slot.
func Joining(s Slot, eni string) vpc.Joining {
	return vpc.Joining{
		ENI: eni, Instance: s.Instance, DeviceIndex: s.Index, NetworkCard: s.Card, EnaExpress: s.Options.EnaExpress != nil && *s.Options.EnaExpress,
	}
}

// Request returns a hash of the parameters of creation but for the token.
func Request(s Slot, cluster string) string {
	c := Creation(s, cluster, 0)
	c.Token = ""
	text, err := json.Marshal(c) // sorts the keys of maps
	if err != nil {
		panic(err) // plain values
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// FromTags returns the slot of an ENI as its tags tell it, for one that no NodeENI wants. It is false for an ENI of another cluster, or of nobody.
func FromTags(eni vpc.Interface, cluster string) (Slot, bool) {
	id, instance, uid := eni.Tags[TagSlot], eni.Tags[TagInstance], eni.Tags[TagNodeENI]
	if eni.Tags[TagCluster] != cluster || cluster == "" || id == "" || instance == "" || uid == "" {
		return Slot{}, false
	}
	s := Slot{
		ID: ID(id), NodeENI: NodeENI{Name: eni.Tags[vpc.NodeENITag], UID: uid}, Node: eni.Tags[TagNode], Instance: instance,
		VPC: eni.VPCID, Zone: eni.Zone, Subnet: eni.SubnetID, Groups: eni.Groups, Options: Options{DeleteOnTermination: true},
	}
	if eni.Attachment != nil {
		s.Index, s.Card = eni.Attachment.DeviceIndex, eni.Attachment.NetworkCard
	}
	return s, true
}

// FromEntry returns the slot of a stored entry, for one that no NodeENI wants.
func FromEntry(e Entry) Slot {
	return Slot{
		ID: ID(e.Slot), NodeENI: NodeENI{Name: e.NodeENI.Name, UID: e.NodeENI.UID, Generation: e.NodeENI.Generation}, Node: e.Node, Instance: e.InstanceID,
		Subnet: e.SubnetID, SubnetCIDR: e.SubnetCIDR, Exact: e.DeviceIndex, Index: e.DeviceIndex, Card: e.NetworkCard,
		Options: Options{
			DeleteOnTermination: true, MTU: e.MTU, EnableDPDK: e.EnableDPDK, DPDKDriver: e.DPDKDriver, DPDKPCIAddress: e.DPDKPCIAddress,
			DPDKResourceName: e.ResourceName, AllowedNamespaces: e.AllowedNamespaces,
		},
	}
}
