// Package rtnl holds the connection to rtnetlink that the packages of pkg/link share, and
// the conversions to and from the standard library's types.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrNotFound is returned when this netns has no link of that name, index or MAC.
var ErrNotFound = errors.New("no such link")

// Conn is an open connection to rtnetlink in one netns. It is not safe for concurrent use.
type Conn struct {
	*netlink.Handle
	// sock serves the messages that netlink.Handle cannot compose or read in full, by way of sockets.
	sock    *nl.NetlinkSocket
	sockets map[int]*nl.SocketHandle
}

// Open returns a Conn in the calling thread's netns.
func Open() (*Conn, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	sock, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Conn{Handle: h, sock: sock, sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sock}}}, nil
}

// Close releases the connection.
func (c *Conn) Close() {
	c.Handle.Close()
	c.sock.Close()
}

// FD is a socket of the netns, for ioctls on its links.
func (c *Conn) FD() int { return c.sock.GetFd() }

// Request is a message of that type to send on this connection.
func (c *Conn) Request(typ, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(typ, flags)
	req.Sockets = c.sockets
	return req
}

// dumpTries bounds how often a dump that a concurrent change interrupted is repeated (NLM_F_DUMP_INTR).
const dumpTries = 10

// Dump calls list again as long as a concurrent change interrupts it, up to dumpTries times.
func Dump[T any](list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		v, err := list()
		if err == nil || try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
}

// NotFound is ErrNotFound where the kernel or the library says that there is no such link, else err.
func NotFound(err error) error {
	var nf netlink.LinkNotFoundError
	if errors.As(err, &nf) || errors.Is(err, unix.ENODEV) {
		return ErrNotFound
	}
	return err
}

// Ref stands for the link of that index in the library's calls.
func Ref(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// Stacked says whether links of a kind (IFLA_INFO_KIND) live on top of another one and may share its MAC.
func Stacked(kind string) bool {
	return slices.Contains([]string{"ipvlan", "ipvtap", "macvlan", "macvtap", "vlan", "bridge", "bond", "team"}, kind)
}

// IPNet converts a prefix.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Prefix converts a network. A nil or malformed one is not ok.
func Prefix(n *net.IPNet) (_ netip.Prefix, ok bool) {
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

// IfaProto is IFA_PROTO, the origin of an address (linux/if_addr.h).
const IfaProto = 11

// nlaTypeMask is NLA_TYPE_MASK (linux/netlink.h).
const nlaTypeMask = 0x3fff

// Attributes calls f for each rtattr, up to the first malformed one.
func Attributes(b []byte, f func(attr uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&nlaTypeMask, b[unix.SizeofRtAttr:size])
		b = b[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(b)):]
	}
}
