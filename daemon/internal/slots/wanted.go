package slots

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Labels of Nodes.
const (
	zoneLabel = "topology.kubernetes.io/zone"
	typeLabel = "node.kubernetes.io/instance-type"
	autoLabel = "eks.amazonaws.com/compute-type"
)

// Instance returns the id of the EC2 instance, "" without one in the providerID.
func (n Node) Instance() string { return vpc.InstanceOf(n.ProviderID) }

// Zone returns the zone's name, "" if neither label nor providerID has it.
func (n Node) Zone() string {
	if zone := n.Labels[zoneLabel]; zone != "" {
		return zone
	}
	if parts := strings.Split(n.ProviderID, "/"); len(parts) == 5 && parts[0] == "aws:" {
		return parts[3]
	}
	return ""
}

// Type returns the instance type, "" if the label is not there.
func (n Node) Type() string { return n.Labels[typeLabel] }

// Auto reports whether EKS Auto Mode has made the node.
func (n Node) Auto() bool { return n.Labels[autoLabel] == "auto" }

// Need lists the subnets and groups that NodeENIs name, each sorted and once.
func Need(nodeENIs []v1alpha1.NodeENI) (subnetIDs, subnetNames, groupIDs, groupNames []string) {
	for _, e := range nodeENIs {
		for _, s := range subnetsOf(e.Spec) {
			if s.named {
				subnetNames = append(subnetNames, s.text)
			} else {
				subnetIDs = append(subnetIDs, s.text)
			}
		}
		groupIDs = append(groupIDs, e.Spec.SecurityGroupIDs...)
		groupNames = append(groupNames, e.Spec.SecurityGroupNames...)
	}
	once := func(list []string) []string {
		slices.Sort(list)
		return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" })
	}
	return once(subnetIDs), once(subnetNames), once(groupIDs), once(groupNames)
}

// Slots returns the slots that the NodeENIs want on the nodes.
func Slots(in Input) Result {
	r := Result{unknown: map[pair]bool{}, unreadable: map[string]bool{}}
	for _, uid := range in.Unreadable {
		r.unreadable[uid] = true
	}
	nodeENIs := slices.SortedFunc(slices.Values(in.NodeENIs), func(a, b v1alpha1.NodeENI) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	nodes := slices.SortedFunc(slices.Values(in.Nodes), func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, e := range nodeENIs {
		if e.DeletionTimestamp != nil {
			continue
		}
		d := declaration{NodeENI: e.Defaulted(), ref: NodeENI{Name: e.Name, UID: string(e.UID), Generation: e.Generation}, in: &in, out: &r, told: map[Fault]bool{}}
		d.begin()
		for _, n := range nodes {
			if Selects(e.Spec.NodeSelector, n.Labels) {
				d.slotsOn(n)
			}
		}
	}
	slices.SortStableFunc(r.Slots, func(a, b Slot) int { return cmp.Compare(a.Node, b.Node) })
	return r
}

// Selects reports whether a nodeSelector selects a Node with these labels.
func Selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// declaration is a NodeENI on its way to slots.
type declaration struct {
	v1alpha1.NodeENI
	ref NodeENI
	in  *Input
	out *Result

	subnets []named
	options Options
	card    int
	anyCard bool
	// faulty: no node gets a slot.
	faulty bool
	told   map[Fault]bool
}

// named is a resource as a NodeENI names it, by id or by name.
type named struct {
	field, text string
	named       bool
}

func subnetsOf(s v1alpha1.NodeENISpec) []named {
	var out []named
	add := func(field string, isName bool, texts ...string) {
		for _, t := range texts {
			if t != "" {
				out = append(out, named{field, t, isName})
			}
		}
	}
	add("subnetID", false, s.SubnetID)
	add("subnetIDs", false, s.SubnetIDs...)
	add("subnetName", true, s.SubnetName)
	add("subnetNames", true, s.SubnetNames...)
	return out
}

func groupsOf(s v1alpha1.NodeENISpec) []named {
	var out []named
	for _, t := range s.SecurityGroupIDs {
		out = append(out, named{"securityGroupIDs", t, false})
	}
	for _, t := range s.SecurityGroupNames {
		out = append(out, named{"securityGroupNames", t, true})
	}
	return slices.DeleteFunc(out, func(g named) bool { return g.text == "" })
}

func (d *declaration) fault(node, reason, format string, args ...any) {
	f := Fault{Reason: reason, Message: fmt.Sprintf(format, args...), NodeENI: d.ref, Node: node}
	if !d.told[f] {
		d.told[f] = true
		d.out.Faults = append(d.out.Faults, f)
	}
}

// begin finds the faults that are the same on each node.
func (d *declaration) begin() {
	d.subnets = subnetsOf(d.Spec)
	if len(d.subnets) == 0 {
		d.faulty = true
		d.fault("", NoSubnet, "NodeENI %s has no subnet: give spec.subnetID or spec.subnetName", d.Name)
	}
	if len(groupsOf(d.Spec)) == 0 {
		d.faulty = true
		d.fault("", NoSecurityGroup, "NodeENI %s has no security group: give spec.securityGroupIDs or spec.securityGroupNames", d.Name)
	}
	for _, err := range d.readOptions() {
		d.faulty = true
		d.fault("", InvalidOption, "NodeENI %s: %v", d.Name, err)
	}
}

// slotsOn adds the slots of a node.
func (d *declaration) slotsOn(n Node) {
	instance := n.Instance()
	if n.Auto() {
		d.fault(n.Name, AutoModeNode, "node %s has the label %s=auto: EKS Auto Mode manages its ENIs; let spec.nodeSelector of NodeENI %s leave it out",
			n.Name, autoLabel, d.Name)
		return
	}
	at := pair{d.ref.UID, n.Name}
	if instance == "" {
		d.out.unknown[at] = true
		d.fault(n.Name, NoInstance, "node %s has spec.providerID %q, which names no EC2 instance: want aws:///ZONE/INSTANCE, as the cloud provider sets it",
			n.Name, n.ProviderID)
		return
	}
	if n.Zone() == "" {
		d.out.unknown[at] = true
		d.fault(n.Name, NoInstance, "node %s has no label %s and no zone in spec.providerID %q: set the label, as the cloud provider does",
			n.Name, zoneLabel, n.ProviderID)
		return
	}
	if d.faulty {
		d.out.unknown[at] = true
		return
	}
	subnets, known := d.subnetsFor(n)
	if !known {
		d.out.unknown[at] = true
	}
	for _, s := range subnets {
		groups, ok := d.groupsFor(s.Subnet)
		if !ok {
			d.out.unknown[at] = true
			continue
		}
		slot := Slot{
			ID: NewID(d.in.Cluster, d.ref.UID, instance, s.ID), NodeENI: d.ref, Node: n.Name, Instance: instance, VPC: s.VPCID, Zone: s.Zone,
			Subnet: s.ID, Groups: groups, Exact: d.Spec.DeviceIndex + s.place, Card: d.card, AnyCard: d.anyCard, Options: d.options,
		}
		if s.CIDR.IsValid() {
			slot.SubnetCIDR = s.CIDR.String()
		}
		slot.Index = slot.Exact
		d.out.Slots = append(d.out.Slots, slot)
	}
}

// placed is a subnet with its place in the NodeENI's list.
type placed struct {
	vpc.Subnet
	place int
}

// subnetsFor returns the subnets of the node's zone. known is false if there may be more.
func (d *declaration) subnetsFor(n Node) (list []placed, known bool) {
	known = true
	seen := map[string]bool{}
	var others []string
	place := 0
	for _, text := range d.subnets {
		s, asked := d.subnet(n, text)
		if !asked {
			return list, false // it may be one of those before it, which decides the places of those behind
		}
		if s.ID == "" {
			known = false
			place++
			continue
		}
		if seen[s.ID] {
			continue // the same twice is one slot, and takes one index
		}
		seen[s.ID] = true
		if s.Zone == n.Zone() {
			list = append(list, placed{s, place})
		} else {
			others = append(others, s.ID+" in "+s.Zone)
		}
		place++
	}
	if len(list) == 0 && known {
		d.fault(n.Name, NoSubnetInZone, "node %s is in zone %s, and NodeENI %s has only %s: add a subnet of that zone, or let spec.nodeSelector leave the node out",
			n.Name, n.Zone(), d.Name, strings.Join(others, ", "))
	}
	return list, known
}

// subnet resolves one of the NodeENI's subnets. It has no ID if EC2 does not know just one; asked is false if EC2 has not been asked.
func (d *declaration) subnet(n Node, text named) (s vpc.Subnet, asked bool) {
	if text.named {
		return d.subnetByName(n, text)
	}
	found, asked := d.in.Catalog.SubnetIDs[text.text]
	switch {
	case !asked:
		return vpc.Subnet{}, false
	case len(found) == 0:
		d.fault("", InvalidSubnet, "spec.%s %s of NodeENI %s: EC2 has no such subnet in this region: correct it", text.field, text.text, d.Name)
		return vpc.Subnet{}, true
	case n.VPC != "" && found[0].VPCID != n.VPC:
		d.fault(n.Name, InvalidSubnet, "spec.%s %s of NodeENI %s is in %s, and node %s in %s: name a subnet of the node's VPC",
			text.field, text.text, d.Name, found[0].VPCID, n.Name, n.VPC)
		return vpc.Subnet{}, true
	}
	return found[0], true
}

func (d *declaration) subnetByName(n Node, text named) (s vpc.Subnet, asked bool) {
	all, asked := d.in.Catalog.SubnetNames[text.text]
	if !asked || n.VPC == "" {
		return vpc.Subnet{}, false
	}
	var found []vpc.Subnet
	var ids []string
	for _, s := range all {
		if s.VPCID == n.VPC {
			found, ids = append(found, s), append(ids, s.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], true
	case 0:
		d.fault("", InvalidSubnet, "spec.%s %q of NodeENI %s: no subnet of %s has this Name tag: correct it", text.field, text.text, d.Name, n.VPC)
	default:
		slices.Sort(ids)
		d.fault("", AmbiguousSubnet, "spec.%s %q of NodeENI %s: %s have this Name tag in %s: give subnetIDs instead",
			text.field, text.text, d.Name, strings.Join(ids, ", "), n.VPC)
	}
	return vpc.Subnet{}, true
}

// groupsFor resolves the security groups for a subnet. It is false if one is not known.
func (d *declaration) groupsFor(subnet vpc.Subnet) ([]string, bool) {
	ids := map[string]bool{}
	ok := true
	for _, text := range groupsOf(d.Spec) {
		all, asked := d.in.Catalog.GroupIDs[text.text]
		if text.named {
			all, asked = d.in.Catalog.GroupNames[text.text]
		}
		if !asked {
			ok = false
			continue
		}
		var found []string
		for _, g := range all {
			if g.VPCID == subnet.VPCID {
				found = append(found, g.ID)
			}
		}
		switch {
		case len(found) == 1:
			ids[found[0]] = true
			continue
		case len(found) == 0:
			d.fault("", InvalidSecurityGroup, "spec.%s %q of NodeENI %s: EC2 has no such group in %s, the VPC of %s: correct it",
				text.field, text.text, d.Name, subnet.VPCID, subnet.ID)
		default:
			slices.Sort(found)
			d.fault("", AmbiguousSecurityGroup, "spec.%s %q of NodeENI %s: %s have this name in %s: give securityGroupIDs instead",
				text.field, text.text, d.Name, strings.Join(found, ", "), subnet.VPCID)
		}
		ok = false
	}
	return slices.Sorted(maps.Keys(ids)), ok
}
