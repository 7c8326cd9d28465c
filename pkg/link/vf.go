package link

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// VF returns what a PF's link has assigned to its VF of that number. ErrNotFound
// when there is no such link, or it does not tell of such a VF.
func (h *Handle) VF(pf string, number int) (nodestate.VFState, error) {
	l, err := h.nl.LinkByName(pf)
	if err != nil {
		return nodestate.VFState{}, fmt.Errorf("find link %s: %w", pf, notFound(err))
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

// AssignVF has the PF's link assign want to its VF of that number, as far as it
// has not: a driver may refuse what it does not know, but then it has not been
// changed either. Errors: as VF, and the driver's.
func (h *Handle) AssignVF(pf string, number int, want nodestate.VFState) error {
	have, err := h.VF(pf, number)
	if err != nil {
		return err
	}
	l, err := h.nl.LinkByName(pf)
	if err != nil {
		return fmt.Errorf("find link %s: %w", pf, notFound(err))
	}
	mac := want.MAC.HardwareAddr()
	if mac == nil {
		mac = make(net.HardwareAddr, 6) // no address is the VF's choice
	}
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
			return fmt.Errorf("assign %s of VF %d of %s: %w", change.what, number, pf, err)
		}
	}
	return nil
}
