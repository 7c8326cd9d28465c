// Package link changes network links, addresses and routes by netlink, in the netns that a Handle was opened in. Its
// verbs are idempotent: a wanted state that is there already is left alone, and is not an error.
//
// It is the project's only importer of vishvananda/netlink. A Handle is not
// safe for concurrent use; several Handles are.
package link

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Errors that callers tell apart.
var (
	// ErrNotFound is returned when this netns has no link of that name, index or MAC.
	ErrNotFound = rtnl.ErrNotFound
	// ErrNameTaken is returned when another link has the name, or one of the altnames.
	ErrNameTaken = errors.New("interface name is taken")
)

// Link is a network link as the kernel describes it.
type Link struct {
	Index    int
	Name     string
	AltNames []string
	// MAC is "" for a link without a unicast EUI-48 address (lo, tunnels).
	MAC device.MAC
	// PermMAC is the address that the hardware was made with
	// (IFLA_PERM_ADDRESS, Linux 5.6); "" for a link without hardware.
	PermMAC device.MAC
	MTU     int
	// Up is the administrative state (IFF_UP), not the carrier's.
	Up bool
	// Kind is IFLA_INFO_KIND ("veth", "vlan", …); "" for a hardware device.
	Kind string
	// Parent is the PCI function behind the link (IFLA_PARENT_DEV_NAME, Linux
	// 5.14); "" where there is none or the kernel does not say.
	Parent device.PCIAddress
	// Below is the index of the link that this one lies on (IFLA_LINK) when that is in the same netns; 0 for none.
	Below int
	// Over is the same index, in any netns; 0 for none. A veth's is its peer's.
	Over int
	// XDP is the id of the XDP program on the link; 0 for none, and where there is
	// one in each of several modes. XDPMode is IFLA_XDP_ATTACHED, 0 for none.
	XDP     uint32
	XDPMode uint8
	// Settings are the values of the attributes in the table of settings.go; nil for
	// a link that was not read by this package.
	Settings nodestate.Settings
}

// State is the state for a later Restore.
func (l Link) State() nodestate.LinkState {
	return nodestate.LinkState{
		Name: l.Name, AltNames: slices.Clone(l.AltNames), MAC: l.MAC, MTU: l.MTU, Up: l.Up, Kind: l.Kind,
		XDP: l.XDP, Settings: maps.Clone(l.Settings),
	}
}

// Handle is an open connection to rtnetlink in one netns.
type Handle struct {
	routing.Table
	nl *rtnl.Conn
	// IPv6Conf is the folder in which Restore finds the IPv6 settings of links. Open sets
	// DefaultIPv6Conf. A process that has the host's folder mounted elsewhere sets it.
	IPv6Conf IPv6Conf
}

// Open returns a Handle in the calling thread's netns.
func Open() (*Handle, error) {
	conn, err := rtnl.Open()
	if err != nil {
		return nil, err
	}
	return &Handle{Table: routing.New(conn), nl: conn, IPv6Conf: DefaultIPv6Conf}, nil
}

// Close releases the connection.
func (h *Handle) Close() { h.nl.Close() }

// Links returns all links of the netns, sorted by index.
func (h *Handle) Links() ([]Link, error) {
	all, err := rtnl.Dump(func() ([]Link, error) { return h.ask(unix.NLM_F_DUMP, 0) })
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	slices.SortFunc(all, func(a, b Link) int { return a.Index - b.Index })
	return all, nil
}

// ByName returns the link whose name or altname it is; ErrNotFound.
func (h *Handle) ByName(name string) (Link, error) {
	typ := unix.IFLA_IFNAME
	if len(name) >= unix.IFNAMSIZ {
		typ = unix.IFLA_ALT_IFNAME
	}
	return one(h.ask(unix.NLM_F_ACK, 0, nl.NewRtAttr(typ, nl.ZeroTerminated(name))))(name)
}

// ByIndex returns the link of that index; ErrNotFound.
func (h *Handle) ByIndex(index int) (Link, error) {
	return one(h.ask(unix.NLM_F_ACK, index))(strconv.Itoa(index))
}

// one is the only answer to a question for a link.
func one(found []Link, err error) func(which string) (Link, error) {
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	return func(which string) (Link, error) {
		if err != nil {
			return Link{}, fmt.Errorf("find link %s: %w", which, rtnl.NotFound(err))
		}
		return found[0], nil
	}
}

// ask is RTM_GETLINK, of one link or, as a dump, of all.
func (h *Handle) ask(flags, index int, by ...*nl.RtAttr) ([]Link, error) {
	req := h.nl.Request(unix.RTM_GETLINK, flags)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(rtextFilterSkipStats)))
	for _, attr := range by {
		req.AddData(attr)
	}
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	all := make([]Link, 0, len(answers))
	for _, m := range answers {
		l, err := read(m)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// rtextFilterSkipStats leaves the counters out of an answer (linux/rtnetlink.h).
const rtextFilterSkipStats = 1 << 3

// Index returns the index of the link whose name or altname it is; ErrNotFound. By SIOCGIFINDEX (netdevice(7)) the
// kernel looks it up without RTNL, for which ByName has to wait while anything else on the machine changes a link.
func (h *Handle) Index(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err != nil { // an altname that is too long for it
		l, err := h.ByName(name)
		return l.Index, err
	}
	if err := unix.IoctlIfreq(h.nl.FD(), unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, rtnl.NotFound(err))
	}
	return int(req.Uint32()), nil
}

// HasMAC says whether the link is known by mac: its present address, or the one
// the hardware was made with, which a pod cannot change.
func (l Link) HasMAC(mac device.MAC) bool {
	return mac != "" && (l.MAC == mac || l.PermMAC == mac)
}

// ByMAC returns the links with that MAC in the order of their index. Stacked links (ipvlan, vlan) share their parent's.
func (h *Handle) ByMAC(mac device.MAC) ([]Link, error) {
	all, err := h.Links()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(l Link) bool { return l.MAC != mac }), nil
}

// read reads an RTM_NEWLINK in full.
func read(msg []byte) (Link, error) {
	l, err := netlink.LinkDeserialize(nil, msg)
	if err != nil {
		return Link{}, fmt.Errorf("read a link's description: %w", err)
	}
	out := describe(l)
	out.Settings, err = readSettings(l.Attrs().RawFlags, msg)
	return out, err
}

func describe(l netlink.Link) Link {
	a := l.Attrs()
	out := Link{
		Index: a.Index, Name: a.Name, AltNames: a.AltNames, MTU: a.MTU,
		Up: a.Flags&net.FlagUp != 0, Over: a.ParentIndex,
	}
	if a.NetNsID < 0 {
		out.Below = a.ParentIndex
	}
	if k := l.Type(); k != "device" {
		out.Kind = k
	}
	if mac, err := device.ParseMAC(a.HardwareAddr.String()); err == nil {
		out.MAC = mac
	}
	if mac, err := device.ParseMAC(a.PermHWAddr.String()); err == nil {
		out.PermMAC = mac
	}
	if a.ParentDevBus == "pci" {
		if pci, err := device.ParsePCIAddress(a.ParentDev); err == nil {
			out.Parent = pci
		}
	}
	if a.Xdp != nil {
		out.XDP, out.XDPMode = a.Xdp.ProgId, uint8(a.Xdp.AttachMode)
	}
	return out
}

// Move moves the link into another netns and names it there, in one RTM_NEWLINK. The kernel takes both steps one after
// the other: on any error the link may be in either netns, down and without addresses. A link that is moved is always
// left down. ErrNameTaken when the name is in use there.
func (h *Handle) Move(index int, to *Netns, name string) error {
	return h.move(index, to, name, 0)
}

// MoveUp is Move, with the link set up there in the same request: a request of its
// own would wait for RTNL once more, behind the moves of others.
func (h *Handle) MoveUp(index int, to *Netns, name string) error {
	return h.move(index, to, name, unix.IFF_UP)
}

func (h *Handle) move(index int, to *Netns, name string, flags uint32) error {
	req := h.nl.Request(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), flags, flags
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.ns.Fd()))))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return nameError("move", index, name, err)
}

// TryRename renames the link, and never sets it down for that. ErrNameTaken. Before Linux
// 6.2 it fails for a link that is up.
func (h *Handle) TryRename(index int, name string) error {
	return nameError("rename", index, name, h.nl.LinkSetName(rtnl.Ref(index), name))
}

// Rename names the link. A link that is up is taken down for it, since older
// kernels refuse to rename it; SetUp it afterwards. ErrNameTaken.
func (h *Handle) Rename(index int, name string) error {
	err := h.nl.LinkSetName(rtnl.Ref(index), name)
	if errors.Is(err, unix.EBUSY) {
		if _, taken := h.ByName(name); taken == nil { // do not take it down for nothing
			return fmt.Errorf("rename link %d to %s: %w", index, name, ErrNameTaken)
		}
		if err := h.SetDown(index); err != nil {
			return err
		}
		err = h.nl.LinkSetName(rtnl.Ref(index), name)
	}
	return nameError("rename", index, name, err)
}

func nameError(verb string, index int, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s link %d to %s: %w", verb, index, name, ErrNameTaken)
	}
	return fmt.Errorf("%s link %d to %s: %w", verb, index, name, rtnl.NotFound(err))
}

// SetUp brings the link up.
func (h *Handle) SetUp(index int) error {
	if err := h.nl.LinkSetUp(rtnl.Ref(index)); err != nil {
		return fmt.Errorf("set link %d up: %w", index, rtnl.NotFound(err))
	}
	return nil
}

// Announce has the kernel tell the neighbours the addresses of a link that is up already (sysctls arp_notify and
// ndisc_notify): to set a MAC is news, be it the one that the link has.
func (h *Handle) Announce(l Link) error {
	if err := h.nl.LinkSetHardwareAddr(rtnl.Ref(l.Index), l.MAC.HardwareAddr()); err != nil {
		return fmt.Errorf("announce link %d: %w", l.Index, rtnl.NotFound(err))
	}
	return nil
}

// SetDown takes the link down.
func (h *Handle) SetDown(index int) error {
	if err := h.nl.LinkSetDown(rtnl.Ref(index)); err != nil {
		return fmt.Errorf("set link %d down: %w", index, rtnl.NotFound(err))
	}
	return nil
}

// SetMTU sets the MTU, in octets.
func (h *Handle) SetMTU(index, mtu int) error {
	if err := h.nl.LinkSetMTU(rtnl.Ref(index), mtu); err != nil {
		return fmt.Errorf("set MTU of link %d to %d: %w", index, mtu, rtnl.NotFound(err))
	}
	return nil
}

// DropAltNames takes altnames away from the link. One that it does not have is an error.
func (h *Handle) DropAltNames(index int, names ...string) error {
	var errs []error
	for _, name := range names {
		if err := h.nl.LinkDelAltName(rtnl.Ref(index), name); err != nil {
			errs = append(errs, fmt.Errorf("drop altname %s of link %d: %w", name, index, rtnl.NotFound(err)))
		}
	}
	return errors.Join(errs...)
}

// Delete deletes the link. One that is gone already is not an error.
func (h *Handle) Delete(index int) error {
	if err := rtnl.NotFound(h.nl.LinkDel(rtnl.Ref(index))); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("delete link %d: %w", index, err)
	}
	return nil
}

// DeleteStacked deletes those among all links of this netns that were made on top of the link (ipvlan, macvlan, vlan
// …), which would go on using it wherever it goes.
func (h *Handle) DeleteStacked(all []Link, index int) error {
	var errs []error
	for _, l := range all {
		if l.Below != index || !rtnl.Stacked(l.Kind) {
			continue
		}
		if err := h.Delete(l.Index); err != nil {
			errs = append(errs, fmt.Errorf("%s is on top of link %d: %w", l.Name, index, err))
		}
	}
	return errors.Join(errs...)
}
