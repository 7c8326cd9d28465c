package inventory

import (
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

type placeState int

const (
	unreadable placeState = iota // sysfs or netlink could not be read
	nowhere                      // not known to have been seen in this boot
	gone                         // it was seen in this boot, and its PCI function is there no more
	trusted                      // its PCI function is there; its netdev is not in the host
	seen                         // its netdev is in the host
)

type place struct {
	state    placeState
	pci      device.PCIAddress // known for gone, trusted and seen
	fn       sysfs.PCIFunction
	link     *link.Link
	replaced bool // gone, and another function is at its address
	twins    bool // more than one function has a link with the ENI's MAC
}

func (p place) found() bool { return p.state == trusted || p.state == seen }

// place finds an ENI's device by the chain MAC, netdev, PCI address, or, without a netdev in the host, by its traces
// from this boot.
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
	before, there := j.lastTrace(eni)
	fn := j.Functions.Value[before.pci]
	if there && fn.PhysFn != "" { // a VF's MAC changes on reset: its address is its identity
		return j.at(sighting{before.pci, j.linkAt[before.pci]})
	}
	at := j.byMAC[j.mac(eni)]
	if len(at) > 1 {
		i := slices.IndexFunc(at, func(s sighting) bool { return s.pci == before.pci })
		if i < 0 {
			return place{state: nowhere, twins: true}
		}
		at = at[i : i+1]
	}
	switch {
	case len(at) == 1:
		return j.at(at[0])
	case before.pci == "":
		return place{state: nowhere}
	case !there:
		return place{state: gone, pci: before.pci, replaced: fn.Address != ""}
	}
	return place{state: trusted, pci: before.pci, fn: fn}
}

func (j *joiner) at(s sighting) place {
	p := place{state: trusted, pci: s.pci, fn: j.Functions.Value[s.pci], link: s.link}
	if p.link != nil {
		p.state = seen
	}
	return p
}

// trace is where an ENI's netdev was in this boot, and of which PCI function; instance is 0 for unknown.
type trace struct {
	pci      device.PCIAddress
	instance uint64
}

// lastTrace returns the first trace of an ENI whose function is still there, or else the first of all, and false.
func (j *joiner) lastTrace(eni device.ENIID) (t trace, there bool) {
	all := j.traces(eni)
	for _, t := range all {
		if j.standing(t) {
			return t, true
		}
	}
	if len(all) > 0 {
		return all[0], false
	}
	return trace{}, false
}

func (j *joiner) standing(t trace) bool {
	fn, there := j.Functions.Value[t.pci]
	return there && (t.instance == 0 || t.instance == fn.Instance)
}

// traces returns the traces of an ENI: in the Sync before, in its pod's record, in the daemon's own when it bound the
// device. A row that never had an interface got its place from a pod or a hint, which are weighed again whenever the
// records can be read.
func (j *joiner) traces(eni device.ENIID) (all []trace) {
	if r := j.rowBefore(eni); r != nil && r.PCIAddress != "" && (r.InterfaceName != "" || !j.Attachments.Known) {
		all = append(all, trace{r.PCIAddress, r.Instance})
	}
	if a := j.record[eni]; a != nil {
		all = append(all, trace{a.Device.PCIAddress, a.Device.Instance})
	}
	if pci := j.unread[eni]; pci != "" {
		all = append(all, trace{pci: pci})
	}
	if t := j.taken[eni]; t != nil {
		all = append(all, trace{t.Device.PCIAddress, t.Device.Instance})
	}
	return all
}

// sameFunction returns the row before if the device was the PCI function that is at that address now, or nil.
func (j *joiner) sameFunction(eni device.ENIID, pci device.PCIAddress) *nodestate.CheckpointDevice {
	if r := j.sameBefore(eni, pci); r != nil && j.standing(trace{pci, r.Instance}) {
		return r
	}
	return nil
}
