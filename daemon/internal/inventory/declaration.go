package inventory

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// declaration is one ENI that one NodeENI wants on this node.
type declaration struct {
	nodeENI string
	eni     device.ENIID // given by the status, or found later; "" while not known
	index   int          // EC2's device index; less than 1 when the declaration does not say
	subnet  device.SubnetID
	cidr    netip.Prefix

	driver   string              // the userspace driver the function must be bound to; "" for a device on kernel networking
	resource device.ResourceName // "" for a device that is not advertised
	mtu      int
	allowed  []string
	stated   device.PCIAddress // spec.dpdkPCIAddress, where it is meant for this ENI: what is discovered must agree with it
	// hint is where a person or the public controller says the device is; it counts only where nothing can be
	// discovered.
	hint   device.PCIAddress
	faulty bool // the declaration contradicts itself, so that its device must not be used until it is mended
	// remembered: nothing readable declares it now. The row before describes it, and its phase gets no better.
	remembered   *nodestate.CheckpointDevice
	missingSince time.Time // missingSince goes into the row's
	entry        *Entry    // entry is the controller's; nil where others name the ENI
}

type declarations struct {
	enis      []declaration
	undecided bool              // part of it cannot be understood, so that it may mean ENIs that none of the declarations names
	attached  bool              // the ENIs are listed by the status, not to be looked for
	pci       device.PCIAddress // spec.dpdkPCIAddress
}

func (j *joiner) declare(o *v1alpha1.NodeENI) declarations {
	d := declarations{attached: j.Lookup == LookupNone || len(o.Status.Attachments) > 0}
	base := j.wants(o)
	d.pci = base.stated
	switch {
	case j.Lookup == LookupEntries:
		d.attached = false
		j.declareEntries(o, base, &d)
	case d.attached:
		j.declareAttached(o, base, &d)
	default:
		j.declareSubnets(o, base, &d)
	}
	j.fitDeclarations(o.Name, &d)
	if len(d.enis) > 1 && d.pci != "" {
		for i := range d.enis { // it names one of several: which is not known yet
			d.enis[i].stated, d.enis[i].hint = "", ""
		}
	}
	return d
}

func (j *joiner) wants(o *v1alpha1.NodeENI) declaration {
	decl := declaration{nodeENI: o.Name, index: -1, mtu: o.Spec.MTU}
	if decl.mtu < 0 || decl.mtu > maxMTU {
		j.problem(reason.InvalidMTU, o.Name, "", "spec.mtu %d is not an MTU; give 1 to %d octets, or leave it out to keep the link's own", decl.mtu, maxMTU)
		decl.mtu = 0
	}
	if o.Spec.Case() == v1alpha1.Case3DPDK {
		decl.driver = j.dpdkDriver(o)
		decl.faulty = decl.driver == ""
	}
	if s := o.Spec.DPDKPCIAddress; s != "" {
		pci, err := device.ParsePCIAddress(s)
		if err != nil {
			j.problem(reason.InvalidPCIAddress, o.Name, "", "spec.dpdkPCIAddress %q is not a full PCI address; write it as domain:bus:device.function, such as "+
				"0000:00:07.0, or leave it out, since it is discovered", s)
			decl.faulty = true
		}
		decl.stated, decl.hint = pci, pci
	}
	name, err := o.Spec.ResourceName()
	if err != nil {
		j.problem(reason.InvalidResourceName, o.Name, "", "%v; the device is not offered to pods until you correct it", err)
	}
	decl.resource = name
	decl.allowed = j.allowedNamespaces(o)
	return decl
}

// maxDeviceIndex: DeviceIndex of AttachNetworkInterface is a 32-bit Integer (Amazon EC2 API Reference).
const maxDeviceIndex = math.MaxInt32

// maxMTU is the largest MTU of any driver of a cloud NIC, in octets; ena has 9216.
const maxMTU = 9216

// dpdkDriver returns "" for a driver that gives the device to no program.
func (j *joiner) dpdkDriver(o *v1alpha1.NodeENI) string {
	if !(sysfs.PCIFunction{Driver: o.Spec.DPDKDriver}).UserspaceDriver() {
		j.problem(reason.InvalidDPDKDriver, o.Name, "", "spec.dpdkDriver %q is not a userspace driver; give vfio-pci, uio_pci_generic or igb_uio", o.Spec.DPDKDriver)
		return ""
	}
	return o.Spec.DPDKDriver
}

// allowedNamespaces returns nil for any namespace. An empty list means the same in a row, so a declaration that allows
// no namespace gives the name "".
func (j *joiner) allowedNamespaces(o *v1alpha1.NodeENI) []string {
	names, err := o.AllowedNamespaces()
	if err != nil {
		j.problem(reason.InvalidAllowedNamespaces, o.Name, "", "%v", err)
	}
	if names != nil && len(names) == 0 {
		return []string{""}
	}
	return names
}

func (j *joiner) declareAttached(o *v1alpha1.NodeENI, base declaration, d *declarations) {
	for i := range o.Status.Attachments {
		a := &o.Status.Attachments[i]
		if a.NodeID != j.NodeName {
			continue
		}
		field := "status.attachments[" + strconv.Itoa(i) + "]"
		eni, err := device.ParseENIID(a.ENIID)
		if err != nil {
			j.problem(reason.InvalidENIID, o.Name, "", "%s.eniID %q is not an ENI id; give eni- and 8 or 17 hexadecimal digits", field, a.ENIID)
			d.undecided = true
			continue
		}
		decl := base
		decl.eni = eni
		if a.DeviceIndex <= maxDeviceIndex {
			decl.index = a.DeviceIndex
		}
		// IMDS knows both too; they only describe the row.
		decl.subnet, _ = device.ParseSubnetID(a.SubnetID)
		decl.cidr, _ = netip.ParsePrefix(a.SubnetCIDR)
		if decl.hint == "" && a.DPDKBound {
			decl.hint, _ = device.ParsePCIAddress(a.DPDKPCIAddress)
		}
		d.enis = append(d.enis, decl)
	}
	if len(d.enis) > 0 || d.undecided {
		return
	}
	if j.Lookup == LookupNone {
		j.problem(reason.NotAttached, o.Name, "", "no ENI of this NodeENI is attached to this node: status.attachments has no entry with nodeID %q; read "+
			"the log of the controller that attaches ENIs, or correct --node-name; where no controller attaches ENIs, attach one yourself and run multi-enid "+
			"with --attachments-from=imds", j.NodeName)
		return
	}
	j.problem(reason.NotAttached, o.Name, "", "no ENI of this NodeENI is attached to this node: status.attachments has no entry with nodeID %q; attach "+
		"one, correct --node-name, or leave the status out: the ENI is then found by spec.deviceIndex and subnet", j.NodeName)
}

// declareSubnets counts subnets as the public controller does: subnetID, then subnetIDs, then names.
func (j *joiner) declareSubnets(o *v1alpha1.NodeENI, base declaration, d *declarations) {
	if o.Spec.DeviceIndex > maxDeviceIndex {
		j.problem(reason.InvalidDeviceIndex, o.Name, "", "spec.deviceIndex %d is not a device index; give 1 to %d, or leave it out for "+
			"1", o.Spec.DeviceIndex, maxDeviceIndex)
		d.undecided = true
		return
	}
	for i, s := range subnets(&o.Spec) {
		subnet, err := device.ParseSubnetID(s.value)
		if err != nil {
			j.problem(reason.InvalidSubnetID, o.Name, "", "%s %q is not a subnet id; give subnet- and 8 or 17 hexadecimal digits", s.field, s.value)
			d.undecided = true
			continue
		}
		decl := base
		decl.subnet, decl.index = subnet, o.Spec.DeviceIndex+i
		d.enis = append(d.enis, decl)
	}
	named := o.Spec.SubnetName != "" || len(o.Spec.SubnetNames) > 0
	switch {
	case named:
		j.problem(reason.SubnetNameUnknown, o.Name, "", "spec.subnetName and spec.subnetNames cannot be looked up without EC2; give spec.subnetID or "+
			"spec.subnetIDs, or status.attachments")
		d.undecided = true
	case len(d.enis) == 0 && o.Spec.SubnetID == "" && len(o.Spec.SubnetIDs) == 0:
		j.problem(reason.NoSubnet, o.Name, "", "neither status.attachments nor a subnet names the ENI; give spec.subnetID or spec.subnetIDs")
		d.undecided = true
	}
}

type subnetField struct{ field, value string }

func subnets(s *v1alpha1.NodeENISpec) []subnetField {
	var all []subnetField
	if s.SubnetID != "" {
		all = append(all, subnetField{"spec.subnetID", s.SubnetID})
	}
	for i, id := range s.SubnetIDs {
		all = append(all, subnetField{"spec.subnetIDs[" + strconv.Itoa(i) + "]", id})
	}
	return all
}

// remember makes a declaration of a row that nothing readable declares or denies.
func remember(r *nodestate.CheckpointDevice, since time.Time) declaration {
	decl := declaration{
		nodeENI: r.NodeENI, eni: r.ENIID, index: r.DeviceIndex, subnet: r.SubnetID, cidr: r.SubnetCIDR,
		resource: r.ResourceName, mtu: r.MTU, allowed: r.AllowedNamespaces, remembered: r, missingSince: since,
	}
	if (sysfs.PCIFunction{Driver: r.Driver}).UserspaceDriver() {
		decl.driver = r.Driver
	}
	if r.InterfaceName == "" {
		decl.hint = r.PCIAddress
	}
	return decl
}

// problem notes something for a person. Its message may hold only stable values: a changed message changes the
// inventory.
func (j *joiner) problem(why nodestate.Reason, nodeENI, dev, format string, args ...any) {
	if nodeENI != "" {
		if j.said[nodeENI]++; j.said[nodeENI] > maxProblems {
			return
		}
	}
	j.problems = append(j.problems, nodestate.Problem{Reason: why, NodeENI: nodeENI, Device: dev, Message: shorten(fmt.Sprintf(format, args...))})
}
