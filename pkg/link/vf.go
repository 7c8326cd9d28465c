package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// VF returns the values that a PF's link has assigned to its VF of that number. ErrNotFound
// when there is no such link, or it does not tell of such a VF.
func (h *Handle) VF(pf string, number int) (nodestate.VFState, error) {
	l, err := h.nl.LinkByName(pf)
	if err != nil {
		return nodestate.VFState{}, fmt.Errorf("find link %s: %w", pf, rtnl.NotFound(err))
	}
	all := l.Attrs().Vfs
	i := slices.IndexFunc(all, func(v netlink.VfInfo) bool { return v.ID == number })
	if i < 0 {
		return nodestate.VFState{}, fmt.Errorf("find VF %d of %s: %w", number, pf, ErrNotFound)
	}
	// A driver that does not know of trust says ^0.
	out := nodestate.VFState{VLAN: all[i].Vlan, QoS: all[i].Qos, Spoofchk: all[i].Spoofchk, Trust: all[i].Trust == 1}
	if mac, err := device.ParseMAC(all[i].Mac.String()); err == nil {
		out.MAC = mac
	}
	return out, nil
}

// AssignVF has the PF's link assign want to its VF of that number. It sets only the
// values that differ: a driver may refuse one that it does not know, but then nobody
// has changed it either. It does all it can. Errors: as VF, and the driver's.
func (h *Handle) AssignVF(pf string, number int, want nodestate.VFState) error {
	have, err := h.VF(pf, number)
	if err != nil {
		return err
	}
	l, err := h.nl.LinkByName(pf)
	if err != nil {
		return fmt.Errorf("find link %s: %w", pf, rtnl.NotFound(err))
	}
	mac := want.MAC.HardwareAddr()
	if mac == nil {
		mac = make(net.HardwareAddr, 6) // no address is the VF's choice
	}
	var errs []error
	for _, change := range []struct {
		what   string
		needed bool
		make   func() error
	}{
		{"VLAN", have.VLAN != want.VLAN || have.QoS != want.QoS, func() error { return h.nl.LinkSetVfVlanQos(l, number, want.VLAN, want.QoS) }},
		{"MAC", have.MAC != want.MAC, func() error { return h.nl.LinkSetVfHardwareAddr(l, number, mac) }},
		{"spoofchk", have.Spoofchk != want.Spoofchk, func() error { return h.nl.LinkSetVfSpoofchk(l, number, want.Spoofchk) }},
		{"trust", have.Trust != want.Trust, func() error { return h.nl.LinkSetVfTrust(l, number, want.Trust) }},
	} {
		if !change.needed {
			continue
		}
		if err := change.make(); err != nil {
			errs = append(errs, fmt.Errorf("assign %s of VF %d of %s: %w", change.what, number, pf, err))
		}
	}
	return errors.Join(errs...)
}

// Functions looks up PCI functions; fs.ErrNotExist when there is none.
type Functions interface {
	PCI(addr device.PCIAddress) (sysfs.PCIFunction, error)
}

// Physical finds a VF's PF: its interface in the host, and the VF's number there.
// ErrNotFound when the function is no VF, or its PF is not the host's.
func Physical(sys Functions, fn sysfs.PCIFunction) (pf string, number int, err error) {
	if fn.PhysFn != "" {
		parent, err := sys.PCI(fn.PhysFn)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", 0, err
		}
		if number := slices.Index(parent.VirtFns, fn.Address); number >= 0 && len(parent.Interfaces) > 0 {
			return parent.Interfaces[0], number, nil
		}
	}
	return "", 0, fmt.Errorf("find the PF of %s: %w", fn.Address, ErrNotFound)
}

// reassign has the PF give a VF its assignments from before the delegate back: else the next pod would be in the last
// one's VLAN. It says whether the VF had been assigned another MAC.
func (h *Handle) reassign(sys Functions, d nodestate.AttachedDevice) (otherMAC bool, err error) {
	if d.Assigned == nil {
		return false, nil
	}
	fn, err := sys.PCI(d.PCIAddress)
	if errors.Is(err, fs.ErrNotExist) || err == nil && d.Replaced(fn.Instance) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	pf, number, err := Physical(sys, fn)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := h.VF(pf, number)
	if err != nil || now == *d.Assigned {
		return false, err
	}
	return now.MAC != d.Assigned.MAC, h.AssignVF(pf, number, *d.Assigned)
}

// ownMAC brings the link of a VF that had been assigned another MAC to its own, and returns the MAC that Restore is to
// give it back. A VF takes the PF's MAC when it is reset, which taking it down does, and some take it in no other way.
// One to which the PF assigns none can be given any.
func (h *Handle) ownMAC(l Link, d nodestate.AttachedDevice) (device.MAC, error) {
	if d.Assigned.MAC == "" {
		return d.MAC, nil
	}
	if err := h.SetUp(l.Index); err != nil {
		return d.Link.MAC, err
	}
	return d.Link.MAC, h.SetDown(l.Index)
}
