package inventory

import (
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// placeState says how the machine shows an ENI.
type placeState int

const (
	// unreadable: sysfs or netlink could not be read.
	unreadable placeState = iota
	// nowhere: not known to have been seen in this boot.
	nowhere
	// gone: it was seen in this boot, and its PCI function is there no more.
	gone
	// trusted: its PCI function is there; its netdev is not in the host.
	trusted
	// seen: its netdev is in the host.
	seen
)

// place is where an ENI's device is.
type place struct {
	state placeState
	// pci is known for gone, trusted and seen.
	pci  device.PCIAddress
	fn   sysfs.PCIFunction
	link *link.Link
	// twins: more than one function has a link with the ENI's MAC.
	twins bool
}

// found says whether the device's address is known and its function there.
func (p place) found() bool { return p.state == trusted || p.state == seen }

// place finds the device of an ENI by the chain MAC, netdev, PCI address, and
// where the host shows no netdev by what was seen earlier in this boot.
func (j *joiner) place(eni device.ENIID) place {
	if p, ok := j.places[eni]; ok {
		return p
	}
	p := j.locate(eni)
	j.places[eni] = p
	return p
}

func (j *joiner) locate(eni device.ENIID) place {
	if !j.Functions.Known || !j.Links.Known {
		return place{state: unreadable}
	}
	before := j.seenBefore(eni)
	fn, there := j.Functions.Value[before]
	if r := j.sameBefore(eni, before); r != nil && r.Instance != 0 && r.Instance != fn.Instance {
		there = false // another function is at its address
	}
	if there && fn.PhysFn != "" { // a VF's MAC changes on reset: its address is its identity
		return j.at(sighting{before, j.linkAt[before]})
	}
	at := j.byMAC[j.mac(eni)]
	if len(at) > 1 {
		i := slices.IndexFunc(at, func(s sighting) bool { return s.pci == before })
		if i < 0 {
			return place{state: nowhere, twins: true}
		}
		at = at[i : i+1]
	}
	switch {
	case len(at) == 1:
		return j.at(at[0])
	case before == "":
		return place{state: nowhere}
	case !there:
		return place{state: gone, pci: before}
	}
	return place{state: trusted, pci: before, fn: fn}
}

func (j *joiner) at(s sighting) place {
	p := place{state: trusted, pci: s.pci, fn: j.Functions.Value[s.pci], link: s.link}
	if p.link != nil {
		p.state = seen
	}
	return p
}

// seenBefore returns the PCI address at which the ENI's netdev was seen in this
// boot: by the Sync before, else by the pod that has it, else by the daemon when
// it bound the device. A row that never had an interface was placed by its pod or by a hint, which are weighed anew each time
// that the records can be read.
func (j *joiner) seenBefore(eni device.ENIID) device.PCIAddress {
	if r := j.rowBefore(eni); r != nil && (r.InterfaceName != "" || !j.Attachments.Known) {
		return r.PCIAddress
	}
	if a := j.record[eni]; a != nil {
		return a.Device.PCIAddress
	}
	if t := j.taken[eni]; t != nil {
		return t.Device.PCIAddress
	}
	return ""
}
