package adversary

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Acts are all actions of a pod except moving its interface away (Moves) and deleting it (Delete).
func Acts() []Act {
	return slices.Concat(ofLink(), ofFlags(), ofPackets(), ofPrograms(), ofOthers(), ofEthtool())
}

func ofLink() []Act {
	return []Act{
		onLink("rename", func(p *Pod, l netlink.Link) error {
			netlink.LinkSetDown(l) //nolint:errcheck // needed by old kernels only
			return netlink.LinkSetName(l, fmt.Sprintf("mine%d", p.rand.IntN(1000)))
		}),
		onLink("MAC", func(p *Pod, l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0xbb, 1, 1, 1, byte(p.rand.IntN(255))})
		}),
		onLink("MTU", func(p *Pod, l netlink.Link) error { return netlink.LinkSetMTU(l, 1280+p.rand.IntN(200)) }),
		onLink("MTU without IPv6", func(_ *Pod, l netlink.Link) error { return netlink.LinkSetMTU(l, 600) }),
		onLink("down", func(_ *Pod, l netlink.Link) error { return netlink.LinkSetDown(l) }),
		onLink("up", func(_ *Pod, l netlink.Link) error { return netlink.LinkSetUp(l) }),
		onLink("altname", func(p *Pod, l netlink.Link) error {
			return netlink.LinkAddAltName(l, fmt.Sprintf("mine-too-%d", p.rand.IntN(1000)))
		}),
		onLink("altname of the host's", func(p *Pod, l netlink.Link) error {
			if len(p.Host) == 0 {
				return ErrCannot
			}
			return netlink.LinkAddAltName(l, p.Host[p.rand.IntN(len(p.Host))])
		}),
		onLink("alias", func(p *Pod, l netlink.Link) error { // from which host-device takes the name for the host
			if len(p.Host) == 0 {
				return ErrCannot
			}
			return netlink.LinkSetAlias(l, p.Host[p.rand.IntN(len(p.Host))])
		}),
		onLink("drop altnames", func(_ *Pod, l netlink.Link) error {
			if len(l.Attrs().AltNames) == 0 {
				return ErrCannot
			}
			return netlink.LinkDelAltName(l, l.Attrs().AltNames[0])
		}),
		onLink("addrgenmode", func(_ *Pod, l netlink.Link) error { return netlink.LinkSetIP6AddrGenMode(l, 1) }),
		{"every attribute", func(p *Pod) error { _, err := SetAttributes(p.Index); return err }},
	}
}

// SetAttributes changes every attribute (IFLA_*) that the kernel permits the caller to change on a link of
// this netns, and returns them. It tries all numbers, except the attributes that move the link.
func SetAttributes(index int) (taken []int, err error) {
	for attr := 1; attr < 128; attr++ {
		if attr == unix.IFLA_NET_NS_PID || attr == unix.IFLA_NET_NS_FD || attr == unix.IFLA_TARGET_NETNSID {
			continue
		}
		before, _, err := attributes(index)
		if err != nil {
			return nil, err
		}
		for _, value := range candidates(before[attr]) {
			if set(index, 0, 0, nl.NewRtAttr(attr, value)) != nil {
				continue
			}
			after, _, err := attributes(index)
			if err != nil {
				return nil, err
			}
			if !maps.EqualFunc(before, after, bytes.Equal) {
				taken = append(taken, attr)
				break
			}
		}
	}
	return taken, nil
}

// candidates are possible values of an attribute. Values like its present one come first.
func candidates(now []byte) [][]byte {
	var all [][]byte
	if len(now) > 0 {
		other := bytes.Clone(now)
		other[0] ^= 1
		all = append(all, other)
		if len(now) == 4 {
			n := nl.NativeEndian().Uint32(now)
			all = append(all, nl.Uint32Attr(n-1), nl.Uint32Attr(n/2), nl.Uint32Attr(n+1))
		}
	}
	return append(all, []byte{1}, nl.Uint32Attr(1), nl.Uint32Attr(4096), []byte("x"), []byte{2, 1, 1, 1, 1, 1})
}

func set(index int, flags, mask uint32, attrs ...*nl.RtAttr) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), flags, mask
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func ofFlags() (all []Act) {
	for bit := range 32 {
		flag := uint32(1) << bit
		if flag == unix.IFF_UP {
			continue
		}
		all = append(all, Act{fmt.Sprintf("flag %#x", flag), func(p *Pod) error {
			_, now, err := attributes(p.Index)
			if err != nil {
				return err
			}
			if err := set(p.Index, ^now&flag, flag); err != nil {
				return err
			}
			if _, after, err := attributes(p.Index); err != nil || after == now {
				return errors.Join(ErrCannot, err)
			}
			return nil
		}})
	}
	return all
}

func ofPackets() []Act {
	address := func(cidr string) func(*Pod, netlink.Link) error {
		return func(_ *Pod, l netlink.Link) error {
			a, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			return netlink.AddrReplace(l, a)
		}
	}
	return []Act{
		onLink("IPv4 address", address("10.99.0.1/24")),
		onLink("IPv6 address", address("fd99::1/64")),
		onLink("route", func(_ *Pod, l netlink.Link) error {
			_, dst, _ := net.ParseCIDR("10.98.0.0/16")
			return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK, Table: 7})
		}),
		onLink("neighbour", func(_ *Pod, l netlink.Link) error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
				IP: net.IPv4(10, 97, 0, 1), HardwareAddr: net.HardwareAddr{2, 1, 1, 1, 1, 1},
			})
		}),
		onLink("fdb entry", func(_ *Pod, l netlink.Link) error {
			return notSupported(netlink.NeighAppend(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{2, 1, 1, 1, 1, 2},
			}))
		}),
		{"packet socket, promiscuous", func(p *Pod) error { return p.listen(unix.PACKET_MR_PROMISC, nil) }},
		{"packet socket, all multicast", func(p *Pod) error { return p.listen(unix.PACKET_MR_ALLMULTI, nil) }},
		{"packet socket, one multicast", func(p *Pod) error { return p.listen(unix.PACKET_MR_MULTICAST, []byte{1, 0, 0x99, 1, 1, 1}) }},
		onLink("qdisc tbf", func(_ *Pod, l netlink.Link) error {
			return notSupported(netlink.QdiscReplace(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
				Rate:       1000000, Limit: 1 << 20, Buffer: 1 << 20,
			}))
		}),
		onLink("clsact with a filter", func(_ *Pod, l netlink.Link) error { return clsact(l) }),
	}
}

// listen opens a packet socket that makes the link receive more, until the pod is killed.
func (p *Pod) listen(kind uint16, address []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.ends = append(p.ends, func() { unix.Close(fd) })
	m := unix.PacketMreq{Ifindex: int32(p.Index), Type: kind, Alen: uint16(len(address))}
	copy(m.Address[:], address)
	return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
}

// clsact adds a filter that matches every IPv4 packet, and drops it where the kernel has actions.
func clsact(l netlink.Link) error {
	index := l.Attrs().Index
	err := netlink.QdiscReplace(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}, QdiscType: "clsact",
	})
	if err != nil {
		return notSupported(err)
	}
	return notSupported(netlink.FilterReplace(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_IP},
		ClassId:     netlink.MakeHandle(1, 1),
	}))
}

func ofPrograms() []Act {
	tcx := func(err error) error { // which Linux 6.6 brought
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("%w: tcx: %w", ErrCannot, err)
		}
		return err
	}
	with := func(name string, load func() (Program, error), attach func(*Pod, Program) error) Act {
		return Act{name, func(p *Pod) error {
			prog, err := load()
			if err != nil {
				return err
			}
			defer prog.Close()
			return notSupported(attach(p, prog))
		}}
	}
	hold := func(hook uint32) func(*Pod, Program) error {
		return func(p *Pod, prog Program) error {
			end, err := prog.Link(p.Index, hook)
			if err == nil {
				p.ends = append(p.ends, end)
			}
			return err
		}
	}
	return []Act{
		with("generic XDP", LoadXDP, func(p *Pod, prog Program) error { return prog.XDP(p.Index, unix.XDP_FLAGS_SKB_MODE) }),
		with("native XDP", LoadXDP, func(p *Pod, prog Program) error { return prog.XDP(p.Index, unix.XDP_FLAGS_DRV_MODE) }),
		with("XDP by bpf_link", LoadXDP, hold(HookXDP)),
		with("tcx ingress", LoadTC, func(p *Pod, prog Program) error { return tcx(prog.TCX(p.Index, unix.BPF_TCX_INGRESS)) }),
		with("tcx egress", LoadTC, func(p *Pod, prog Program) error { return tcx(prog.TCX(p.Index, unix.BPF_TCX_EGRESS)) }),
		with("tcx by bpf_link", LoadTC, func(p *Pod, prog Program) error { return tcx(hold(unix.BPF_TCX_INGRESS)(p, prog)) }),
	}
}

func ofOthers() []Act {
	above := func(name string, made func(a netlink.LinkAttrs) netlink.Link) []Act {
		add := func(p *Pod, l netlink.Link) (netlink.Link, error) {
			a := netlink.NewLinkAttrs()
			a.Name, a.ParentIndex = fmt.Sprintf("%s%d", name, p.rand.IntN(10000)), l.Attrs().Index
			up := made(a)
			if err := netlink.LinkAdd(up); err != nil {
				return nil, notSupported(err)
			}
			return up, netlink.LinkSetUp(up)
		}
		return []Act{
			onLink(name+" on top", func(p *Pod, l netlink.Link) error { _, err := add(p, l); return err }),
			onLink(name+" on top, in another netns", func(p *Pod, l netlink.Link) error {
				up, err := add(p, l)
				if err != nil {
					return err
				}
				path, err := p.nest()
				if err == nil {
					_, err = move(up, path)
				}
				return err
			}),
		}
	}
	under := func(name string, made func(a netlink.LinkAttrs) netlink.Link) Act {
		return onLink("port of a "+name, func(p *Pod, l netlink.Link) error {
			a := netlink.NewLinkAttrs()
			a.Name = fmt.Sprintf("%s%d", name, p.rand.IntN(10000))
			master := made(a)
			if err := netlink.LinkAdd(master); err != nil {
				return notSupported(err)
			}
			netlink.LinkSetDown(l) //nolint:errcheck // bond wants it
			return netlink.LinkSetMaster(l, master)
		})
	}
	all := slices.Concat(
		above("vlan", func(a netlink.LinkAttrs) netlink.Link { return &netlink.Vlan{LinkAttrs: a, VlanId: 7} }),
		above("macvlan", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}
		}),
		above("ipvlan", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: a, Mode: netlink.IPVLAN_MODE_L2}
		}),
		above("vxlan", func(a netlink.LinkAttrs) netlink.Link {
			return &netlink.Vxlan{LinkAttrs: a, VxlanId: 7, VtepDevIndex: a.ParentIndex, Port: 4789, Group: net.IPv4(239, 1, 1, 1)}
		}),
	)
	return append(all,
		under("bridge", func(a netlink.LinkAttrs) netlink.Link { return &netlink.Bridge{LinkAttrs: a} }),
		under("bond", func(a netlink.LinkAttrs) netlink.Link { return netlink.NewLinkBond(a) }),
		under("vrf", func(a netlink.LinkAttrs) netlink.Link { return &netlink.Vrf{LinkAttrs: a, Table: 9} }),
	)
}

func ofEthtool() []Act {
	act := func(name string, do func(name string) error) Act {
		return Act{"ethtool " + name, func(p *Pod) error { return notSupported(do(p.name())) }}
	}
	all := []Act{act("features", changeFeatures), act("rss", rssTable), act("rss key", rssKey), act("rule", rxRule)}
	for _, s := range ethtoolStructs {
		all = append(all, act(s.name, s.change))
	}
	return all
}

// Moves take the interface to a netns of the pod's own making.
func Moves() []Act {
	return []Act{onLink("move to another netns", func(p *Pod, l netlink.Link) error {
		path, err := p.nest()
		if err != nil {
			return err
		}
		index, err := move(l, path)
		if err == nil {
			p.Netns, p.Index = path, index
		}
		return err
	})}
}

// Delete deletes the interface, as the kernel allows of a link without hardware.
func Delete() Act {
	return onLink("delete", func(_ *Pod, l netlink.Link) error { return notSupported(netlink.LinkDel(l)) })
}
