package link

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// setting is an attribute of RTM_NEWLINK that a process with CAP_NET_ADMIN in the link's netns can change. The link
// keeps it when it changes netns, and RTM_SETLINK takes the value that RTM_NEWLINK reports. TestEveryAttribute tries
// all others on the kernel.
type setting struct {
	// name is its key in nodestate.Settings, as ip-link(8) calls it.
	name string
	attr uint16 // IFLA_*
	form form
}

// form is how the kernel writes an attribute, and how a record does.
type form int

const (
	u8      form = iota // decimal
	u32                 // decimal
	text                // without the final zero
	address             // hexadecimal
)

// settings are in the order in which the kernel must get them: gso_max_size
// changes gso_ipv4_max_size, and so does gro_max_size.
var settings = []setting{
	{"broadcast", unix.IFLA_BROADCAST, address},
	{"txqueuelen", unix.IFLA_TXQLEN, u32},
	{"mode", unix.IFLA_LINKMODE, u8},
	{"alias", unix.IFLA_IFALIAS, text},
	{"group", unix.IFLA_GROUP, u32},
	{"protodown", unix.IFLA_PROTO_DOWN, u8},
	{"gso_max_segs", unix.IFLA_GSO_MAX_SEGS, u32},
	{"gso_max_size", unix.IFLA_GSO_MAX_SIZE, u32},
	{"gro_max_size", unix.IFLA_GRO_MAX_SIZE, u32},
	{"gso_ipv4_max_size", unix.IFLA_GSO_IPV4_MAX_SIZE, u32},
	{"gro_ipv4_max_size", unix.IFLA_GRO_IPV4_MAX_SIZE, u32},
}

// The flags that anybody may set (dev_change_flags of the kernel), which are one setting. IFF_UP is the state's own.
const (
	flagsName    = "flags"
	settableFlag = unix.IFF_DEBUG | unix.IFF_NOTRAILERS | unix.IFF_NOARP | unix.IFF_PROMISC | unix.IFF_ALLMULTI |
		unix.IFF_MULTICAST | unix.IFF_PORTSEL | unix.IFF_AUTOMEDIA | unix.IFF_DYNAMIC
)

// readSettings reads the settings that an RTM_NEWLINK tells. A kernel that does
// not know one says nothing of it; a link without an alias has "".
func readSettings(flags uint32, msg []byte) (nodestate.Settings, error) {
	attrs, err := nl.ParseRouteAttr(msg[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, fmt.Errorf("read a link's attributes: %w", err)
	}
	out := nodestate.Settings{flagsName: fmt.Sprintf("%#x", flags&settableFlag), "alias": ""}
	for _, a := range attrs {
		for _, s := range settings {
			if s.attr == a.Attr.Type {
				out[s.name] = s.form.decode(a.Value)
			}
		}
	}
	return out, nil
}

func (f form) decode(value []byte) string {
	switch {
	case f == u8 && len(value) >= 1:
		return strconv.Itoa(int(value[0]))
	case f == u32 && len(value) >= 4:
		return strconv.FormatUint(uint64(nl.NativeEndian().Uint32(value)), 10)
	case f == text:
		return nl.BytesToString(value)
	}
	return hex.EncodeToString(value)
}

func (f form) encode(value string) ([]byte, error) {
	switch f {
	case u8:
		n, err := strconv.ParseUint(value, 10, 8)
		return []byte{byte(n)}, err
	case u32:
		n, err := strconv.ParseUint(value, 10, 32)
		return nl.Uint32Attr(uint32(n)), err
	case text:
		return []byte(value), nil
	case address:
	}
	return hex.DecodeString(value)
}

// restoreSettings gives the link those settings that it has otherwise than want says. It does all it can.
func (h *Handle) restoreSettings(l Link, want nodestate.Settings) (changed bool, failed map[string]error) {
	failed = map[string]error{}
	set := func(name string, change func() error) {
		if was, recorded := want[name]; !recorded || l.Settings[name] == was {
			return
		}
		if err := change(); err != nil {
			failed[name] = err
		}
		changed = true
	}
	set(flagsName, func() error { return h.setFlags(l.Index, want[flagsName]) })
	for _, s := range settings {
		set(s.name, func() error {
			value, err := s.form.encode(want[s.name])
			if err != nil {
				return err
			}
			return h.setLink(l.Index, nl.NewRtAttr(int(s.attr), value))
		})
	}
	return changed, failed
}

// setLink is RTM_SETLINK with attributes.
func (h *Handle) setLink(index int, attrs ...*nl.RtAttr) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	return h.change(msg, attrs...)
}

func (h *Handle) setFlags(index int, flags string) error {
	n, err := strconv.ParseUint(flags, 0, 32)
	if err != nil {
		return err
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), uint32(n), settableFlag
	return h.change(msg)
}

func (h *Handle) change(msg *nl.IfInfomsg, attrs ...*nl.RtAttr) error {
	req := h.nl.Request(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
