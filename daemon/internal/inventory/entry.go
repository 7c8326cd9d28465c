package inventory

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Entry is one slot of this node, as the lifecycle controller describes it. With LookupEntries the Entries alone name ENIs.
type Entry struct {
	Slot, NodeENI string
	// ENI is the slot's as EC2 describes it; its ID is "" before the controller has made it, and the index the planned one.
	ENI vpc.ENI
	// Released: no pod may get the device, and the controller detaches the ENI once the daemon says that none has it.
	Released bool
	// Release is the number of that wish, for the answer.
	Release int
	// Withheld: the ENINodeState says still that the ENI is released, so the controller may detach it. No new pod may get the device.
	Withheld bool
	// Phase, Reason and Message are the controller's words.
	Phase, Reason, Message string
}

// Release is an ENI that nothing on the node has any more. PCI is where its function was last, "" if it was never seen.
type Release struct {
	Slot string
	ENI  device.ENIID
	PCI  device.PCIAddress
}

// declareEntries declares an ENI for each entry of the NodeENI that is to be attached.
func (j *joiner) declareEntries(o *v1alpha1.NodeENI, base declaration, d *declarations) {
	for i := range j.Entries {
		e := &j.Entries[i]
		if e.NodeENI != o.Name || e.Released {
			continue
		}
		decl := base
		decl.entry, decl.eni, decl.index, decl.subnet, decl.cidr = e, e.ENI.ID, e.ENI.DeviceIndex, e.ENI.SubnetID, e.ENI.SubnetCIDR
		d.enis = append(d.enis, decl)
	}
}

// indexEntries adds the entries' ENIs to those of the metadata, which list a new one late. Where both know a value, the metadata count:
// they have later changes of addresses.
func (j *joiner) indexEntries() {
	var vpcCIDRs []netip.Prefix
	for i := range j.ENIs.Value {
		if j.ENIs.Value[i].Primary {
			vpcCIDRs = j.ENIs.Value[i].VPCCIDRs // an ENI is in its instance's VPC
		}
	}
	for i := range j.Entries {
		given := j.Entries[i].ENI
		if given.ID == "" {
			continue
		}
		given.VPCCIDRs = vpcCIDRs
		if listed, there := j.enis[given.ID]; there {
			given = complete(listed, given)
		}
		j.enis[given.ID] = given
	}
}

func complete(e, by vpc.ENI) vpc.ENI {
	e.MAC, e.SubnetID = cmp.Or(e.MAC, by.MAC), cmp.Or(e.SubnetID, by.SubnetID)
	if e.DeviceIndex < 1 {
		e.DeviceIndex = by.DeviceIndex
	}
	if e.NetworkCard < 0 {
		e.NetworkCard = by.NetworkCard
	}
	if !e.SubnetCIDR.IsValid() {
		e.SubnetCIDR = by.SubnetCIDR
	}
	if len(e.Addresses)+len(e.Prefixes) == 0 {
		e.Addresses, e.Prefixes = by.Addresses, by.Prefixes
	}
	if len(e.VPCCIDRs) == 0 {
		e.VPCCIDRs = by.VPCCIDRs
	}
	return e
}

// awaited says why the controller has not attached the ENI yet; "" if it has.
func (e *Entry) awaited() string {
	switch e.Phase {
	case "Attached", "Ready", "External":
		return ""
	}
	why := "phase " + cmp.Or(e.Phase, "not given")
	if e.Reason != "" {
		why += ", " + e.Reason
	}
	if e.Message != "" {
		why += ": " + e.Message
	}
	return why
}

// explainEntry says why a device was not found whose ENI the controller has not attached.
func (j *joiner) explainEntry(decl *declaration) bool {
	if decl.entry == nil || decl.entry.awaited() == "" {
		return false
	}
	j.problem(reason.NotAttached, decl.nodeENI, decl.eni.String(), "the controller has not attached the ENI in %s yet: %s", decl.subnet, decl.entry.awaited())
	return true
}

// causeOfEntry says why the entries do not declare a row's ENI.
func (j *joiner) causeOfEntry(r *nodestate.CheckpointDevice) string {
	if slices.ContainsFunc(j.Entries, func(e Entry) bool { return e.ENI.ID == r.ENIID && e.Released }) {
		return "the controller wants to detach the ENI: NodeENI " + r.NodeENI + " is deleted, or does not want it on this node"
	}
	return "the controller's list in the ENINodeState has no entry for the ENI"
}

// releases returns the ENIs that the controller waits for and nothing on the node has: no row, no record, no container by the kubelet's
// word, no userspace driver of ours. What cannot be read proves nothing.
func (j *joiner) releases() (all []Release) {
	for i := range j.Entries {
		e := &j.Entries[i]
		if eni := e.ENI.ID; e.Released && eni != "" && j.Complete && !slices.Contains(j.UnreadENIs, eni) && j.owner[eni] == "" {
			if pci, yes := j.untouched(e); yes {
				all = append(all, Release{Slot: e.Slot, ENI: eni, PCI: pci})
			}
		}
	}
	return all
}

// untouched also returns where the ENI's device is, or was in the Sync before.
func (j *joiner) untouched(e *Entry) (device.PCIAddress, bool) {
	eni := e.ENI.ID
	p := j.place(eni)
	pci := p.pci
	if before := j.rowBefore(eni); before != nil {
		pci = cmp.Or(pci, before.PCIAddress)
	}
	if j.waitsForKubelet(e, pci) {
		return pci, false
	}
	if slices.ContainsFunc(j.rows, func(r row) bool { return r.ENIID == eni }) {
		return pci, false
	}
	if p.state == unreadable || !j.Attachments.Known || !j.Taken.Known {
		return pci, false
	}
	_, unread := j.unread[eni]
	if unread || p.found() && j.held[pci] || j.record[eni] != nil || j.taken[eni] != nil || j.recorded(e) {
		j.problem(reason.ReleaseWaits, e.NodeENI, eni.String(), "the controller waits for this ENI, and a record in the folder of attachments has it still; see "+
			"multi-enid doctor")
		return pci, false
	}
	return pci, true
}

// recorded says whether any record of this boot names the ENI.
func (j *joiner) recorded(e *Entry) bool {
	return slices.ContainsFunc(j.Attachments.Value, func(a nodestate.Attachment) bool {
		d := a.Device
		return a.Holds(j.BootID) && (d.ENIID == e.ENI.ID || !d.VF && d.MAC != "" && d.MAC == e.ENI.MAC) &&
			!d.Replaced(j.Functions.Value[d.PCIAddress].Instance)
	})
}

// waitsForKubelet says whether the kubelet may have given the device to a container. Freed ENIs have been asked for.
func (j *joiner) waitsForKubelet(e *Entry, pci device.PCIAddress) bool {
	switch {
	case j.Kubelet == nil || j.Freed[e.ENI.ID]:
		return false
	case !j.Kubelet.Known:
		return true // reconcile says why
	case j.Kubelet.Value.Fresh:
		j.problem(reason.ReleaseWaits, e.NodeENI, e.ENI.ID.String(), "the controller waits for this ENI, and the kubelet may not list all pods yet, as in the "+
			"first minute after its start; if it lasts, see that it lists the pod of multi-enid")
		return true
	}
	return len(j.Kubelet.Value.Allocated[pci]) > 0
}
