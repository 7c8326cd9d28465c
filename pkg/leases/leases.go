// Package leases keeps the leases of addresses that eni-ipam hands out: one file for
// each ENI and boot, and the pool of addresses that pods on a shared ENI may get.
//
// The files follow the rules of nodestate: atomic renames, a schemaVersion, and no
// content that others may have written. Changes are made under a lock of the ENI.
package leases

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// State says why an address is not free.
type State string

// The states of a lease. An address without a lease is free.
const (
	// Held: an attachment has the address.
	Held State = "leased"
	// Cooling: no pod has it, but neighbours and peers may still cache the last holder, until FreeAt.
	Cooling State = "cooling"
)

// Lease keeps an address of an ENI from everybody but its holder.
type Lease struct {
	Address netip.Addr `json:"address"`
	State   State      `json:"state"`
	// AttachmentID names the address's holder, or the last one.
	nodestate.AttachmentID
	// Network is the netconf's name, by which GC selects, and Pod is namespace/name for messages; both may be "".
	Network string `json:"network,omitempty"`
	Pod     string `json:"pod,omitempty"`
	// Netns is the container's; once it is gone, so is the holder.
	Netns nodestate.Netns `json:"netns,omitzero"`
	// CoolDown is how long the address cools once it is released.
	CoolDown time.Duration `json:"coolDownNanoseconds,omitempty"`
	// ScarceCoolDown is how long it cools while no other address is free; 0 is as long as CoolDown.
	ScarceCoolDown time.Duration `json:"scarceCoolDownNanoseconds,omitempty"`
	// FreeAt is when it is free again, as the time since boot (CLOCK_BOOTTIME),
	// which never goes back. 0 unless it is cooling.
	FreeAt time.Duration `json:"freeAtNanoseconds,omitempty"`
}

// Leases are the leases of one ENI's addresses.
type Leases struct {
	SchemaVersion int          `json:"schemaVersion"`
	ENIID         device.ENIID `json:"eniID"`
	// Last are the addresses that were given last, one of each family at most: the next is looked for behind it.
	Last []netip.Addr `json:"last,omitempty"`
	// Asked are the families, IPv4 and IPv6, that pods have asked for in this boot, with or without success.
	Asked []string `json:"asked,omitempty"`
	// Retiring are addresses (with their full length) and prefixes that the daemon is
	// giving back to the subnet. No pod gets them.
	Retiring []netip.Prefix `json:"retiring,omitempty"`
	// Leases are sorted by address; there is one for an address at most.
	Leases []Lease `json:"leases"`
}

// Find returns where the lease of an address is in Leases, or would be.
func (l *Leases) Find(a netip.Addr) (i int, found bool) {
	return slices.BinarySearchFunc(l.Leases, a, func(lease Lease, a netip.Addr) int { return lease.Address.Compare(a) })
}

// Retires says whether an address is on its way back to the subnet.
func (l *Leases) Retires(a netip.Addr) bool {
	return slices.ContainsFunc(l.Retiring, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Holds says whether the lease keeps the address from others at a time since boot.
func (l *Lease) Holds(now time.Duration) bool {
	return l.State != Cooling || now < l.FreeAt
}

// ScarceAt is from when on a cooling address can be given although it cools, as the
// time since boot, if no other is free.
func (l *Lease) ScarceAt() time.Duration {
	if l.ScarceCoolDown == 0 {
		return l.FreeAt
	}
	return l.FreeAt - max(l.CoolDown-l.ScarceCoolDown, 0)
}

// HeldBy says whether an attachment has the address.
func (l *Lease) HeldBy(id nodestate.AttachmentID) bool {
	return l.State == Held && l.AttachmentID == id
}

func decodeLeases(path string, data []byte) (Leases, error) {
	var l Leases
	if err := nodestate.Decode(path, data, &l, &l.SchemaVersion); err != nil {
		return Leases{}, err
	}
	if err := l.validate(); err != nil {
		return Leases{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return l, nil
}

func (l *Leases) validate() error {
	if _, err := device.ParseENIID(l.ENIID.String()); err != nil {
		return fmt.Errorf("%w: eniID: %w", nodestate.ErrCorrupt, err)
	}
	for i, lease := range l.Leases {
		if err := lease.validate(); err != nil {
			return fmt.Errorf("%w: leases[%d]: %w", nodestate.ErrCorrupt, i, err)
		}
		if i > 0 && lease.Address.Compare(l.Leases[i-1].Address) <= 0 {
			return fmt.Errorf("%w: leases[%d]: %s is not behind %s", nodestate.ErrCorrupt, i, lease.Address, l.Leases[i-1].Address)
		}
	}
	for i, p := range l.Retiring {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("%w: retiring[%d] %q", nodestate.ErrCorrupt, i, p)
		}
	}
	return nil
}

func (l *Lease) validate() error {
	switch {
	case !l.Address.IsValid() || l.Address.Zone() != "":
		return fmt.Errorf("address %q", l.Address)
	case l.State != Held && l.State != Cooling:
		return fmt.Errorf("state %q", l.State)
	case l.State == Held && (l.ContainerID == "" || l.IfName == ""):
		return errors.New("containerID or ifname is empty")
	}
	return nil
}
