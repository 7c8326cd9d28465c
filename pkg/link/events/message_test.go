package events

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
)

// message is an rtnetlink message. A size of 0 is the right one.
func message(kind uint16, size uint32, body ...byte) []byte {
	if size == 0 {
		size = uint32(unix.NLMSG_HDRLEN + len(body))
	}
	b := binary.NativeEndian.AppendUint32(nil, size)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(append(b, make([]byte, unix.NLMSG_HDRLEN-6)...), body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// attr is an rtattr of 4 octets.
func attr(typ uint16, value uint32) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.SizeofRtAttr+4)
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint16(b, typ), value)
}

// hop is a struct rtnexthop. A size of 0 is the right one.
func hop(size uint16, index uint32) []byte {
	if size == 0 {
		size = unix.SizeofRtNexthop
	}
	b := binary.NativeEndian.AppendUint16(nil, size)
	return binary.NativeEndian.AppendUint32(append(b, 0, 0), index)
}

func route(table, protocol byte, attrs ...byte) []byte {
	body := make([]byte, unix.SizeofRtMsg+len(attrs))
	body[4], body[5] = table, protocol
	copy(body[unix.SizeofRtMsg:], attrs)
	return body
}

func multipath(hops ...[]byte) []byte {
	var all []byte
	for _, h := range hops {
		all = append(all, h...)
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(all)))
	return append(binary.NativeEndian.AppendUint16(b, unix.RTA_MULTIPATH), all...)
}

// TestConcerned: a datagram may have several messages, and one that is not understood wakes
// everybody, since it may be about anything.
func TestConcerned(t *testing.T) {
	const ours, foreign = 7, 8
	addr := func(index byte) []byte { return []byte{unix.AF_INET, 24, 0, 0, index, 0, 0, 0} }
	var i Interest
	i.Set([]link.Link{{Index: ours, Name: "eth1", AltNames: []string{"uplink"}}})
	quiet := message(unix.RTM_NEWADDR, 0, addr(foreign)...)
	for name, tt := range map[string]struct {
		datagram []byte
		want     bool
	}{
		"nothing":                        {nil, false},
		"a foreign address":              {quiet, false},
		"our address":                    {message(unix.RTM_DELADDR, 0, addr(ours)...), true},
		"a short address":                {message(unix.RTM_NEWADDR, 0, 2, 24), true},
		"ours behind a foreign one":      {append(quiet, message(unix.RTM_NEWADDR, 0, addr(ours)...)...), true},
		"two foreign ones":               {append(quiet, quiet...), false},
		"any link":                       {message(unix.RTM_NEWLINK, 0), true},
		"a size below the header's":      {message(unix.RTM_NEWADDR, 8, addr(foreign)...), true},
		"a size behind the end":          {message(unix.RTM_NEWADDR, 400, addr(foreign)...), true},
		"a piece behind a foreign one":   {append(quiet, 1, 2, 3), true},
		"our route":                      {message(unix.RTM_NEWROUTE, 0, route(254, unix.RTPROT_BOOT, attr(unix.RTA_OIF, ours)...)...), true},
		"a foreign route":                {message(unix.RTM_NEWROUTE, 0, route(254, unix.RTPROT_BOOT, attr(unix.RTA_OIF, foreign)...)...), false},
		"a route of the local table":     {message(unix.RTM_NEWROUTE, 0, route(unix.RT_TABLE_LOCAL, 2, attr(unix.RTA_OIF, ours)...)...), false},
		"a route that we add":            {message(unix.RTM_NEWROUTE, 0, route(0, routing.SourceProtocol, attr(unix.RTA_OIF, ours)...)...), false},
		"a route that we lose":           {message(unix.RTM_DELROUTE, 0, route(0, routing.SourceProtocol, attr(unix.RTA_OIF, ours)...)...), true},
		"a short route":                  {message(unix.RTM_NEWROUTE, 0, 2, 24), true},
		"our next hop":                   {message(unix.RTM_NEWROUTE, 0, route(254, 3, multipath(hop(0, foreign), hop(0, ours))...)...), true},
		"foreign next hops":              {message(unix.RTM_NEWROUTE, 0, route(254, 3, multipath(hop(0, foreign), hop(0, foreign))...)...), false},
		"a next hop without end":         {message(unix.RTM_NEWROUTE, 0, route(254, 3, multipath(hop(1, foreign))...)...), true},
		"a rule that names an altname":   {message(unix.RTM_NEWRULE, 0, route(0, 0, append([]byte{11, 0, fraIifName, 0}, "uplink\x00\x00"...)...)...), true},
		"a rule that names another link": {message(unix.RTM_NEWRULE, 0, route(0, 0, append([]byte{9, 0, fraOifName, 0}, "eth9\x00\x00\x00\x00"...)...)...), false},
		"a rule that we add":             {message(unix.RTM_NEWRULE, 0, route(0, 0, 5, 0, fraProtocol, 0, routing.SourceProtocol, 0, 0, 0)...), false},
		"a rule that we lose":            {message(unix.RTM_DELRULE, 0, route(0, 0, 5, 0, fraProtocol, 0, routing.SourceProtocol, 0, 0, 0)...), true},
		"a short rule":                   {message(unix.RTM_NEWRULE, 0, 2), true},
	} {
		if got := i.concerned(tt.datagram); got != tt.want {
			t.Errorf("%s: %v; want %v", name, got, tt.want)
		}
		if everything := new(Interest).concerned(tt.datagram); everything != (len(tt.datagram) > 0) {
			t.Errorf("%s: %v without links of interest; want every message", name, everything)
		}
	}
}

// FuzzConcerned: no datagram makes it panic or run for ever.
func FuzzConcerned(f *testing.F) {
	f.Add(message(unix.RTM_NEWROUTE, 0, route(254, 3, multipath(hop(0, 7))...)...))
	f.Add(message(unix.RTM_NEWRULE, 0, route(0, 0, 5, 0, fraProtocol, 0, routing.SourceProtocol)...))
	f.Add(message(unix.RTM_NEWADDR, 0, 2, 24))
	f.Fuzz(func(_ *testing.T, datagram []byte) {
		var i Interest
		i.Set([]link.Link{{Index: 7, Name: "eth1"}})
		i.concerned(datagram)
	})
}

// TestRelevant: only uevents of PCI functions and network devices are events.
func TestRelevant(t *testing.T) {
	for uevent, want := range map[string]bool{
		"add@/devices/pci0000:00/0000:00:06.0\x00ACTION=add\x00SUBSYSTEM=pci\x00":    true,
		"move@/devices/virtual/net/eth1\x00ACTION=move\x00SUBSYSTEM=net\x00SEQNUM=7": true,
		"add@/devices/virtual/block/loop1\x00ACTION=add\x00SUBSYSTEM=block\x00":      false,
		"add@/bus/pci_express\x00SUBSYSTEM=pci_express\x00":                          false,
		"":                                  false,
		strings.Repeat("KEY=VALUE\x00", 40): false,
	} {
		if got := relevant([]byte(uevent)); got != want {
			t.Errorf("%q: %v; want %v", uevent, got, want)
		}
	}
}

// TestFromKernel: a process that joins the group can send to it, and is not believed.
func TestFromKernel(t *testing.T) {
	for name, tt := range map[string]struct {
		from unix.Sockaddr
		want bool
	}{
		"the kernel":        {&unix.SockaddrNetlink{}, true},
		"a process":         {&unix.SockaddrNetlink{Pid: 4711}, false},
		"another family":    {&unix.SockaddrInet4{}, false},
		"nobody to be told": {nil, false},
	} {
		if got := fromKernel(tt.from); got != tt.want {
			t.Errorf("%s: %v; want %v", name, got, tt.want)
		}
	}
}
