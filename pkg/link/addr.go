package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrAddressTaken is returned when the link has the address with another length.
var ErrAddressTaken = errors.New("the link has it with another length")

// EnsureAddress adds an address to the link. IPv6 addresses skip duplicate
// address detection (IFA_F_NODAD): the ENI owns them, and a tentative address
// cannot be used for a second. One that somebody else has just added, and that is
// still tentative, is added anew. ErrAddressTaken: the kernel holds an IPv6 address
// once on each link, whatever its length.
func (h *Handle) EnsureAddress(index int, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err := h.nl.AddrAdd(ref(index), addr)
	if errors.Is(err, unix.EEXIST) {
		err = h.settle(index, addr)
	}
	if err != nil {
		return fmt.Errorf("add address %s to link %d: %w", p, index, notFound(err))
	}
	return nil
}

// settle looks at an address that the link has already, and replaces it when it is
// tentative.
func (h *Handle) settle(index int, addr *netlink.Addr) error {
	found, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(ref(index), netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(a netlink.Addr) bool { return a.IP.Equal(addr.IP) })
	switch {
	case i < 0:
		return unix.EEXIST // it was gone at the second look
	case slices.ContainsFunc(found, func(a netlink.Addr) bool { return a.Equal(*addr) && a.Flags&unix.IFA_F_TENTATIVE == 0 }):
		return nil
	case !found[i].Equal(*addr):
		return fmt.Errorf("%w: %s", ErrAddressTaken, found[i].IPNet)
	}
	if err := h.nl.AddrDel(ref(index), addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return h.nl.AddrAdd(ref(index), addr)
}

// Addresses returns the link's addresses of both families.
func (h *Handle) Addresses(index int) ([]netip.Prefix, error) {
	found, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(ref(index), netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of link %d: %w", index, notFound(err))
	}
	all := make([]netip.Prefix, 0, len(found))
	for _, a := range found {
		if p, ok := prefix(a.IPNet); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefix converts; a nil or malformed network is not one.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}
