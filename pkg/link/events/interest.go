package events

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
)

// Interest tells Subscribe which links' routes, addresses and rules matter. A CNI adds
// some for each pod, and a router may have a million routes: all others are ignored. With the
// zero value every change matters. It is safe for concurrent use.
type Interest struct{ links atomic.Pointer[interesting] }

type interesting struct {
	indexes map[int32]bool
	names   map[string]bool
}

// Set sets the links of interest. Call it before you read the routes: then each change is in
// the routes read, or comes as an event after that.
func (i *Interest) Set(links []link.Link) {
	set := &interesting{indexes: make(map[int32]bool, len(links)), names: make(map[string]bool, len(links))}
	for _, l := range links {
		set.indexes[int32(l.Index)] = true
		for _, name := range append([]string{l.Name}, l.AltNames...) {
			set.names[name] = true
		}
	}
	i.links.Store(set)
}

// Attributes of rules (linux/fib_rules.h) that x/sys/unix lacks.
const (
	fraIifName  = 3
	fraOifName  = 17
	fraProtocol = 21
)

// concerned says whether a datagram of rtnetlink messages matters. A malformed one does.
func (i *Interest) concerned(datagram []byte) bool {
	set := i.links.Load()
	for len(datagram) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(datagram))
		if size < unix.NLMSG_HDRLEN || size > len(datagram) {
			return true
		}
		if set == nil || set.concerned(binary.NativeEndian.Uint16(datagram[4:]), datagram[unix.NLMSG_HDRLEN:size]) {
			return true
		}
		datagram = datagram[min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(datagram)):]
	}
	return len(datagram) > 0
}

// concerned says whether one message matters. kind is its nlmsg_type, body the message without its header.
func (s *interesting) concerned(kind uint16, body []byte) bool {
	switch kind {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(body) < unix.SizeofIfAddrmsg || s.indexes[int32(binary.NativeEndian.Uint32(body[4:]))]
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return s.route(kind, body)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return s.rule(kind, body)
	}
	return true
}

// route says whether a change of a route matters. It ignores routes that we add ourselves,
// and the table local, since its routes follow changes of addresses.
func (s *interesting) route(kind uint16, body []byte) bool {
	if len(body) < unix.SizeofRtMsg {
		return true
	}
	table, protocol := body[4], body[5] // rtm_table, rtm_protocol
	if table == unix.RT_TABLE_LOCAL || kind == unix.RTM_NEWROUTE && protocol == routing.SourceProtocol {
		return false
	}
	matters := false
	rtnl.Attributes(body[unix.SizeofRtMsg:], func(attr uint16, value []byte) {
		switch attr {
		case unix.RTA_OIF:
			matters = matters || len(value) >= 4 && s.indexes[int32(binary.NativeEndian.Uint32(value))]
		case unix.RTA_MULTIPATH:
			matters = matters || s.nextHop(value)
		}
	})
	return matters
}

// nextHop says whether one of several next hops (struct rtnexthop) matters.
func (s *interesting) nextHop(hops []byte) bool {
	for len(hops) >= unix.SizeofRtNexthop {
		if s.indexes[int32(binary.NativeEndian.Uint32(hops[4:]))] {
			return true
		}
		size := int(binary.NativeEndian.Uint16(hops))
		if size < unix.SizeofRtNexthop {
			return true
		}
		hops = hops[min((size+unix.RTNH_ALIGNTO-1)&^(unix.RTNH_ALIGNTO-1), len(hops)):]
	}
	return false
}

// rule says whether a change of a rule matters: one of ours was deleted, or the rule names a link of interest.
func (s *interesting) rule(kind uint16, body []byte) bool {
	if len(body) < unix.SizeofRtMsg { // struct fib_rule_hdr is laid out alike
		return true
	}
	named, ours := false, false
	rtnl.Attributes(body[unix.SizeofRtMsg:], func(attr uint16, value []byte) {
		switch attr {
		case fraProtocol:
			ours = slices.Equal(value, []byte{routing.SourceProtocol})
		case fraIifName, fraOifName:
			named = named || s.names[string(bytes.TrimRight(value, "\x00"))]
		}
	})
	return ours && kind == unix.RTM_DELRULE || named
}
