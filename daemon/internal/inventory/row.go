package inventory

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (j *joiner) addRows(group []declaration) {
	if len(group) == 0 {
		return
	}
	places := make([]place, len(group))
	for i := range group {
		if group[i].eni == "" {
			places[i] = place{state: nowhere}
		} else {
			places[i] = j.place(group[i].eni)
		}
	}
	j.choose(group, places)
	for i := range group {
		j.addRow(&group[i], places[i])
	}
}

// choose applies spec.dpdkPCIAddress of a NodeENI with several ENIs: only the one at that address is advertised. If
// none is, once all addresses are known, all are at fault.
func (j *joiner) choose(group []declaration, places []place) {
	name := group[0].nodeENI
	pci := j.declared[name].pci
	if group[0].remembered != nil || pci == "" || len(j.declared[name].enis) < 2 {
		return
	}
	matched, open := false, len(group) < len(j.declared[name].enis)
	for _, p := range places {
		matched = matched || p.found() && p.pci == pci
		open = open || !p.found()
	}
	if !matched && !open {
		j.problem(reason.PCIAddressMismatch, name, pci.String(), "spec.dpdkPCIAddress %s is none of this NodeENI's devices, which are at %s; give one of "+
			"these, or leave it out", pci, addresses(places))
	}
	for i := range group {
		if !places[i].found() || places[i].pci != pci {
			group[i].resource = ""
			group[i].faulty = group[i].faulty || !matched && !open
		}
	}
}

func addresses(places []place) string {
	all := make([]string, len(places))
	for i, p := range places {
		all[i] = p.pci.String()
	}
	return strings.Join(all, ", ")
}

func (j *joiner) addRow(decl *declaration, p place) {
	before := j.rowBefore(decl.eni)
	if p.state == unreadable && before != nil {
		j.keep(before, before.Phase, before.MissingSince)
		return
	}
	if p.state == nowhere && !p.twins {
		p = j.takeHint(decl)
	}
	if p.state == gone {
		j.problem(reason.DeviceGone, decl.nodeENI, decl.eni.String(), "%s; attach the ENI, or remove the NodeENI", p.whyGone())
		if before != nil && before.Phase != nodestate.PhasePending && !j.forgettable(before) {
			j.drain(before, p.whyGone(), before.MissingSince)
			return
		}
		p = place{state: gone}
	}
	if p.fn.IsEFA() {
		j.problem(reason.EFADevice, decl.nodeENI, decl.eni.String(), "PCI function %s is an Elastic Fabric Adapter, which the daemon never touches; name "+
			"another ENI", p.pci)
		return
	}
	if p.pci != "" {
		if other, taken := j.used[p.pci]; taken {
			j.problem(reason.PCIAddressShared, decl.nodeENI, decl.eni.String(), "PCI function %s already belongs to %s; detach and attach the ENI", p.pci, other)
			p = place{state: nowhere}
		} else {
			j.used[p.pci] = decl.eni
		}
	}
	r := row{Device: j.describe(decl, p), hostName: j.hostName(decl, p), instance: p.fn.Instance}
	if decl.driver == "" && !p.fn.UserspaceDriver() && !j.InHand(p.pci) {
		r.InterfaceName = r.hostName
	}
	r.Phase, r.missingSince = j.phase(decl, p, r.Device), decl.missingSince
	if r.Phase == nodestate.PhaseDraining {
		r.Cause = j.causeOfDriverChange(decl, p)
	}
	j.rows = append(j.rows, r)
	if p.state != seen || !decl.kernel() || !decl.at(p.pci) || !j.Attachments.Known || j.alone[p.pci] || j.ChangingDriver[p.pci] {
		return
	}
	if l := (IdleLink{Device: r.Device, Link: *p.link}); j.held[p.pci] {
		j.shared = append(j.shared, l)
	} else {
		j.idle = append(j.idle, l)
	}
}

func (decl *declaration) kernel() bool {
	return decl.driver == "" && !decl.faulty && (decl.remembered == nil || decl.remembered.Phase == nodestate.PhaseReady)
}

// hostName returns the name of the device's link in the host, or its last name there.
func (j *joiner) hostName(decl *declaration, p place) string {
	if p.link != nil {
		return p.link.Name
	}
	if r := j.sameBefore(decl.eni, p.pci); r != nil {
		return r.InterfaceName
	}
	return ""
}

// takeHint accepts a stated PCI address for a device that a userspace driver has already, so that nothing shows its
// MAC, if all visible facts agree.
func (j *joiner) takeHint(decl *declaration) place {
	fn, there := j.Functions.Value[decl.hint]
	if decl.eni == "" || !there || decl.driver == "" || fn.Driver != decl.driver || fn.Class>>16 != classNetwork {
		return place{state: nowhere}
	}
	if other, known := j.knownAt[decl.hint]; known && other != decl.eni {
		return place{state: nowhere}
	}
	if _, listed := j.enis[decl.eni]; !listed && j.sameFunction(decl.eni, decl.hint) == nil {
		return place{state: nowhere}
	}
	return place{state: trusted, pci: decl.hint, fn: fn}
}

// classNetwork is the base class of network controllers (PCI Code and ID Assignment Specification).
const classNetwork = 0x02

// describe fills in the known fields of a device: from IMDS, else from the declaration, else from the row before.
func (j *joiner) describe(decl *declaration, p place) nodestate.Device {
	e, listed := j.enis[decl.eni]
	if !listed {
		e.DeviceIndex, e.NetworkCard = -1, -1
	}
	old := nodestate.Device{DeviceIndex: -1, NetworkCard: -1}
	if before := j.prev[decl.eni]; before != nil {
		old = before.Device
	}
	d := nodestate.Device{
		ENIID: decl.eni, NodeENI: decl.nodeENI, MAC: j.mac(decl.eni), PCIAddress: p.pci, Driver: p.fn.Driver,
		DeviceIndex: firstFrom(1, e.DeviceIndex, decl.index, old.DeviceIndex), NetworkCard: firstFrom(0, e.NetworkCard, old.NetworkCard),
		SubnetID: cmp.Or(e.SubnetID, decl.subnet, old.SubnetID), SubnetCIDR: decl.cidr,
		Addresses: []netip.Prefix{}, Prefixes: []netip.Prefix{},
		MTU: decl.mtu, ResourceName: decl.resource, AllowedNamespaces: decl.allowed,
	}
	// EC2 may know an ENI that the metadata do not list, but not its subnet's range.
	if e.SubnetCIDR.IsValid() {
		d.SubnetCIDR, d.VPCCIDRs = e.SubnetCIDR, e.VPCCIDRs
		d.Addresses, d.Prefixes = append(d.Addresses, e.Addresses...), append(d.Prefixes, e.Prefixes...)
		j.keepLeased(&d, &old)
	} else {
		if !d.SubnetCIDR.IsValid() {
			d.SubnetCIDR = old.SubnetCIDR
		}
		d.VPCCIDRs = old.VPCCIDRs
		d.Addresses, d.Prefixes = append(d.Addresses, old.Addresses...), append(d.Prefixes, old.Prefixes...)
	}
	if same := j.sameFunction(decl.eni, p.pci); same != nil {
		d.Ethtool = same.Ethtool
	}
	return d
}

// firstFrom returns the first number that is least or more; -1 for unknown.
func firstFrom(least int, all ...int) int {
	if i := slices.IndexFunc(all, func(n int) bool { return n >= least }); i >= 0 {
		return all[i]
	}
	return -1
}

// keepLeased keeps the row's addresses that pods lease: others must not get them. While the leases cannot be read,
// every address counts as leased.
func (j *joiner) keepLeased(d, before *nodestate.Device) {
	var lost []netip.Addr
	var who []string
	for _, l := range j.Leases.Value[d.ENIID].Leases {
		if l.State == leases.Held && !has(d, l.Address) {
			lost, who = append(lost, l.Address), append(who, fmt.Sprintf("%s (%s)", l.Address, cmp.Or(l.Pod, "container "+l.ContainerID)))
		}
	}
	unread := !j.Leases.Known || j.UnreadLeases[d.ENIID]
	keep := func(p netip.Prefix) bool { return unread || slices.ContainsFunc(lost, p.Contains) }
	for _, a := range before.Addresses {
		if !slices.Contains(d.Addresses, a) && keep(netip.PrefixFrom(a.Addr(), a.Addr().BitLen())) {
			d.Addresses = append(d.Addresses, a)
		}
	}
	for _, p := range before.Prefixes {
		if !slices.Contains(d.Prefixes, p) && keep(p) {
			d.Prefixes = append(d.Prefixes, p)
		}
	}
	for _, a := range lost {
		// Behind an address of its family, which is the ENI's own.
		i := slices.IndexFunc(d.Addresses, func(p netip.Prefix) bool { return p.Addr().BitLen() == a.BitLen() })
		if i >= 0 && !has(d, a) {
			d.Addresses = append(d.Addresses, netip.PrefixFrom(a, d.Addresses[i].Bits()))
		}
	}
	if who != nil {
		j.problem(reason.LeasedAddressGone, d.NodeENI, d.ENIID.String(), "the ENI has lost addresses that pods use, and the VPC delivers nothing to them: "+
			"%s; assign the addresses again, or delete the pods", strings.Join(who, ", "))
	}
}

// has says whether an address is the device's, or in one of its prefixes.
func has(d *nodestate.Device, a netip.Addr) bool {
	return slices.ContainsFunc(d.Addresses, func(p netip.Prefix) bool { return p.Addr() == a }) ||
		slices.ContainsFunc(d.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// sameBefore returns the row before if the device was at the same address in this boot, or nil.
func (j *joiner) sameBefore(eni device.ENIID, pci device.PCIAddress) *nodestate.CheckpointDevice {
	if r := j.rowBefore(eni); r != nil && pci != "" && r.PCIAddress == pci {
		return r
	}
	return nil
}

func (j *joiner) phase(decl *declaration, p place, d nodestate.Device) nodestate.Phase {
	before := j.sameBefore(decl.eni, p.pci)
	if decl.remembered != nil && decl.remembered.Phase != nodestate.PhaseReady {
		if before != nil {
			return before.Phase
		}
		return nodestate.PhasePending
	}
	if !p.found() {
		j.explainNowhere(decl, p)
		return nodestate.PhasePending
	}
	if !j.agrees(decl, p) || decl.faulty || d.MAC == "" || decl.entry != nil && decl.entry.Withheld {
		return nodestate.PhasePending
	}
	switch {
	case j.ChangingDriver[p.pci], decl.driver != p.fn.Driver && (decl.driver != "" || p.fn.UserspaceDriver()), decl.driver == "" && j.InHand(p.pci):
		return j.phaseOfDriverChange(decl, p, d)
	case decl.driver != "":
		return nodestate.PhaseReady
	}
	return j.phaseKernel(decl, p, before)
}

// at says whether the device may be at an address, as far as that is stated.
func (decl *declaration) at(pci device.PCIAddress) bool {
	return decl.stated == "" || decl.stated == pci
}

func (j *joiner) agrees(decl *declaration, p place) bool {
	if decl.at(p.pci) {
		return true
	}
	j.problem(reason.PCIAddressMismatch, decl.nodeENI, decl.eni.String(), "spec.dpdkPCIAddress is %s, but the ENI is at %s; correct it, or leave it "+
		"out", decl.stated, p.pci)
	return false
}

// phaseKernel makes a device ready once its link was up. A device that was ready at this address in this boot stays so:
// its link may be in a pod, or on its way back.
func (j *joiner) phaseKernel(decl *declaration, p place, before *nodestate.CheckpointDevice) nodestate.Phase {
	switch {
	case p.fn.Driver == "":
		return nodestate.PhasePending // the kernel has not bound it yet
	case p.state == trusted && j.Attachments.Known && !j.held[p.pci]:
		if l := j.linkAt[p.pci]; l != nil {
			j.problem(reason.MACChanged, decl.nodeENI, decl.eni.String(), "link %s has MAC %s instead of the ENI's MAC %s, so the VPC drops its packets; set "+
				"it back: ip link set dev %[1]s address %[3]s", l.Name, l.MAC, j.mac(decl.eni))
			return nodestate.PhasePending
		}
		j.explainNoInterface(decl, p)
	}
	switch {
	case p.state == seen && settled(*p.link, decl.mtu):
		return nodestate.PhaseReady
	case p.state == trusted && (j.record[decl.eni] != nil || j.unread[decl.eni] != ""):
		return nodestate.PhaseReady
	case j.sameFunction(decl.eni, p.pci) != nil && before.Phase != nodestate.PhasePending && before.Driver == p.fn.Driver:
		return nodestate.PhaseReady
	}
	return nodestate.PhasePending
}

func (p place) whyGone() string {
	if p.replaced {
		return fmt.Sprintf("another PCI function is at %s, where the device was, and no link of this host has its MAC", p.pci)
	}
	return fmt.Sprintf("no PCI function is at %s, where the device was", p.pci)
}

// explainNowhere says why a device was not found, unless it may only need time.
func (j *joiner) explainNowhere(decl *declaration, p place) {
	mac := j.mac(decl.eni)
	switch {
	case p.state == nowhere && !p.twins && j.explainEntry(decl):
	case decl.eni == "" || p.state != nowhere:
	case p.twins:
		j.problem(reason.DuplicateMAC, decl.nodeENI, decl.eni.String(), "several PCI functions have a link with the ENI's MAC %s; give the others another "+
			"MAC, or remove them", mac)
	case mac == "" && j.ENIs.Known && !slices.ContainsFunc(j.ENIs.Value, func(e vpc.ENI) bool { return e.ID == "" }):
		j.problem(reason.ENINotListed, decl.nodeENI, decl.eni.String(), "the instance metadata does not list this ENI, so its MAC is unknown; attach it to "+
			"this instance, or correct status.attachments")
	case mac != "" && decl.driver != "":
		j.problem(reason.DeviceNotSeen, decl.nodeENI, decl.eni.String(), "no link of this host has the ENI's MAC %s; if it is bound to %s already, give its "+
			"PCI address in spec.dpdkPCIAddress", mac, decl.driver)
	case mac != "":
		j.problem(reason.DeviceNotSeen, decl.nodeENI, decl.eni.String(), "no link of this host has the ENI's MAC %s; attach the ENI, or bring its link back "+
			"from another network namespace", mac)
	}
}
