package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// slot is where EC2 attaches an ENI. A NodeENI without status names slots.
type slot struct {
	index  int
	subnet device.SubnetID
}

// resolve finds the declaration's ENI, if it can be told, and says whether the declaration is valid.
func (j *joiner) resolve(decl *declaration) bool {
	if decl.eni == "" && decl.entry == nil {
		decl.eni = j.find(decl)
	}
	if decl.eni == "" {
		return true
	}
	if j.enis[decl.eni].Primary {
		j.problem(reason.PrimaryENI, decl.nodeENI, decl.eni.String(), "this is the instance's primary ENI, which the daemon never touches; name another one")
		return false
	}
	if owner, taken := j.owner[decl.eni]; taken {
		if owner != decl.nodeENI {
			j.problem(reason.ENIClaimedTwice, decl.nodeENI, decl.eni.String(), "NodeENI %s, which comes first by name, already has this ENI; change "+
				"deviceIndex, subnet or status of one of the two", owner)
		}
		return false
	}
	j.owner[decl.eni] = decl.nodeENI
	return true
}

// find looks for the ENI at the declaration's slot, in IMDS and among the rows before. IMDS lists detached ENIs too
// long, so of several the plugged-in one counts.
func (j *joiner) find(decl *declaration) device.ENIID {
	at := slot{decl.index, decl.subnet}
	best, rank := []device.ENIID(nil), -1
	for _, eni := range j.slots[at] {
		if j.keptByAnother(decl, eni) {
			continue
		}
		switch r := j.presence(eni); {
		case r > rank:
			best, rank = []device.ENIID{eni}, r
		case r == rank:
			best = append(best, eni)
		}
	}
	switch len(best) {
	case 0:
		j.explainMissing(decl)
		return ""
	case 1:
		return j.unlessForeign(decl, best[0])
	}
	for _, drains := range []bool{false, true} { // one that drains has made way for the other
		for _, eni := range best {
			if p := j.prev[eni]; p != nil && p.NodeENI == decl.nodeENI && (p.Phase == nodestate.PhaseDraining) == drains {
				return j.unlessForeign(decl, eni)
			}
		}
	}
	j.problem(reason.AmbiguousENI, decl.nodeENI, "", "%s are all at device index %d in %s; name one of them in status.attachments, or detach the "+
		"others", list(best), decl.index, decl.subnet)
	return ""
}

// keptByAnother says whether an ENI stays in another NodeENI's row, and is at the declaration's slot only while the
// metadata, or, for a device that never had a link here, the records cannot be read.
func (j *joiner) keptByAnother(decl *declaration, eni device.ENIID) bool {
	r := j.prev[eni]
	if _, listed := j.enis[eni]; listed || r == nil || r.NodeENI == decl.nodeENI {
		return false
	}
	if j.ENIs.Known && (j.Attachments.Known || r.InterfaceName != "") {
		return false
	}
	_, stays := j.mayStay(r)
	return stays
}

func (j *joiner) presence(eni device.ENIID) int {
	switch j.place(eni).state {
	case seen:
		return 3
	case trusted, unreadable:
		return 2
	case nowhere:
		return 1
	default: // gone
		return 0
	}
}

// explainMissing reports a slot without ENI, unless it is only not known yet.
func (j *joiner) explainMissing(decl *declaration) {
	if !j.ENIs.Known {
		return
	}
	var same, other []string
	for _, e := range j.ENIs.Value {
		switch {
		case e.Primary:
		case e.DeviceIndex < 1 && (e.SubnetID == decl.subnet || e.SubnetID == ""):
			return // IMDS has not heard of its index yet
		case e.DeviceIndex == decl.index:
			other = append(other, fmt.Sprintf("%s at that index is in %s", e.ID, e.SubnetID))
		case e.SubnetID == decl.subnet:
			same = append(same, fmt.Sprintf("%s in that subnet is at index %d", e.ID, e.DeviceIndex))
		}
	}
	there := slices.Concat(other, same)
	slices.Sort(there)
	if len(there) == 0 {
		there = []string{"no secondary ENI has either"}
	}
	j.problem(reason.ENINotAttached, decl.nodeENI, "", "no ENI is attached at device index %d in %s (%s); attach one, or correct spec.deviceIndex and "+
		"the subnet", decl.index, decl.subnet, strings.Join(there, ", "))
}

// indexSlots collects the candidates for each slot. A row before counts unless IMDS knows better, or the ENI is neither
// in IMDS nor plugged in.
func (j *joiner) indexSlots() {
	add := func(index int, subnet device.SubnetID, eni device.ENIID) {
		j.slots[slot{index, subnet}] = append(j.slots[slot{index, subnet}], eni)
	}
	for _, e := range j.ENIs.Value {
		if !e.Primary {
			add(e.DeviceIndex, e.SubnetID, e.ID)
		}
	}
	for i := range j.Checkpoint.Devices {
		r := &j.Checkpoint.Devices[i]
		e, listed := j.enis[r.ENIID]
		if listed && e.DeviceIndex != 0 && e.DeviceIndex != -1 {
			continue
		}
		if !listed && j.ENIs.Known && j.presence(r.ENIID) < 2 {
			continue
		}
		add(r.DeviceIndex, r.SubnetID, r.ENIID)
	}
	for _, enis := range j.slots {
		slices.Sort(enis)
	}
}

func (j *joiner) mac(eni device.ENIID) device.MAC {
	if e := j.enis[eni]; e.MAC != "" {
		return e.MAC
	}
	if p := j.prev[eni]; p != nil && p.MAC != "" {
		return p.MAC
	}
	if a := j.record[eni]; a != nil && !a.Device.VF {
		return a.Device.MAC
	}
	if t := j.taken[eni]; t != nil && !t.Device.VF {
		return t.Device.MAC
	}
	return ""
}

func list(enis []device.ENIID) string {
	s := make([]string, len(enis))
	for i, e := range enis {
		s[i] = e.String()
	}
	return strings.Join(s, ", ")
}

func (j *joiner) indexSources() {
	for _, e := range j.ENIs.Value {
		if e.ID != "" {
			j.enis[e.ID] = e
		}
	}
	j.indexEntries()
	for i := range j.Checkpoint.Devices {
		r := &j.Checkpoint.Devices[i]
		j.prev[r.ENIID] = r
		if r.PCIAddress != "" && j.Checkpoint.BootID == j.BootID && (!j.Functions.Known || j.standing(trace{r.PCIAddress, r.Instance})) {
			j.knownAt[r.PCIAddress] = r.ENIID
		}
	}
	for i := range j.Attachments.Value {
		a := &j.Attachments.Value[i]
		if !a.Holds(j.BootID) || a.Device.Replaced(j.Functions.Value[a.Device.PCIAddress].Instance) {
			continue
		}
		j.held[a.Device.PCIAddress] = true
		j.alone[a.Device.PCIAddress] = j.alone[a.Device.PCIAddress] || a.Mode.Exclusive()
		if a.Device.ENIID != "" && a.Mode.Exclusive() {
			j.record[a.Device.ENIID] = a
		}
	}
	for _, u := range j.Unread {
		if u.ENIID != "" && !u.Ended(j.BootID) {
			j.unread[u.ENIID] = u.PCIAddress
		}
	}
	for pci := range j.Held {
		j.held[pci], j.alone[pci] = true, true
	}
	for pci, r := range j.Taken.Value {
		if j.InHand(pci) {
			j.taken[r.Device.ENIID] = &r
		}
	}
	j.indexLinks()
}

type sighting struct {
	pci  device.PCIAddress
	link *link.Link
}

// indexLinks finds the PCI function below each link: from the kernel, else from sysfs. A link of a function that sysfs
// does not list belongs to another machine's tree.
func (j *joiner) indexLinks() {
	byName := map[string]device.PCIAddress{}
	for pci, fn := range j.Functions.Value {
		for _, name := range fn.Interfaces {
			byName[name] = pci
		}
	}
	for i := range j.Links.Value {
		l := &j.Links.Value[i]
		pci := cmp.Or(l.Parent, byName[l.Name])
		if _, ok := j.Functions.Value[pci]; !ok {
			continue
		}
		if _, ok := j.linkAt[pci]; !ok {
			j.linkAt[pci] = l
		}
		there := func(s sighting) bool { return s.pci == pci }
		if l.MAC != "" && !slices.ContainsFunc(j.byMAC[l.MAC], there) {
			j.byMAC[l.MAC] = append(j.byMAC[l.MAC], sighting{pci, l})
		}
	}
}

func (j *joiner) rowBefore(eni device.ENIID) *nodestate.CheckpointDevice {
	if j.Checkpoint.BootID != j.BootID {
		return nil
	}
	return j.prev[eni]
}
