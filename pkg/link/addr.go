package link

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
)

// ErrAddressTaken is returned when the link has the address with another length.
var ErrAddressTaken = errors.New("the link has it with another length")

// EnsureAddress adds an address to the link. IPv6 addresses skip duplicate address detection (IFA_F_NODAD): the ENI
// owns them, and a tentative address cannot be used for a second. One that somebody else has just added, and that is
// still tentative, is added anew. ErrAddressTaken: the kernel holds an IPv6 address once on each link, with one length.
func (h *Handle) EnsureAddress(index int, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: rtnl.IPNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	err := h.nl.AddrAdd(rtnl.Ref(index), addr)
	if errors.Is(err, unix.EEXIST) {
		err = h.settle(index, addr)
	}
	if err != nil {
		return fmt.Errorf("add address %s to link %d: %w", p, index, rtnl.NotFound(err))
	}
	return nil
}

// settle looks at an address that the link has already, and replaces it when it is tentative.
func (h *Handle) settle(index int, addr *netlink.Addr) error {
	found, err := rtnl.Dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(rtnl.Ref(index), netlink.FAMILY_ALL) })
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
	if err := h.nl.AddrDel(rtnl.Ref(index), addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	return h.nl.AddrAdd(rtnl.Ref(index), addr)
}

// Addresses returns the link's addresses of both families.
func (h *Handle) Addresses(index int) ([]netip.Prefix, error) {
	found, err := rtnl.Dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(rtnl.Ref(index), netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of link %d: %w", index, rtnl.NotFound(err))
	}
	all := make([]netip.Prefix, 0, len(found))
	for _, a := range found {
		if p, ok := rtnl.Prefix(a.IPNet); ok {
			all = append(all, p)
		}
	}
	return all, nil
}
