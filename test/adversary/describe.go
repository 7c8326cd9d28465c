package adversary

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Description is everything that a process can see of a link, by name. Equal descriptions mean an unchanged device.
type Description map[string]string

// counters are attributes that change by themselves, or depend on the link's place.
var counters = []int{
	unix.IFLA_STATS, unix.IFLA_STATS64, unix.IFLA_CARRIER_CHANGES, unix.IFLA_CARRIER_UP_COUNT, unix.IFLA_CARRIER_DOWN_COUNT,
	unix.IFLA_PAD, unix.IFLA_LINK, unix.IFLA_LINK_NETNSID,
	unix.IFLA_OPERSTATE, unix.IFLA_CARRIER, // a link that has just come up negotiates for seconds
	unix.IFLA_NUM_VF, unix.IFLA_VFINFO_LIST,
	unix.IFLA_MAP,       // where its registers are
	unix.IFLA_PROP_LIST, // the altnames, which are told in an order of their own
}

// Describe describes a link of the calling thread's netns.
func Describe(index int) (Description, error) {
	attrs, flags, err := attributes(index)
	if err != nil {
		return nil, err
	}
	out := Description{"flags": fmt.Sprintf("%#x", flags&^(unix.IFF_RUNNING|unix.IFF_LOWER_UP|unix.IFF_DORMANT))}
	for typ, value := range attrs {
		if !slices.Contains(counters, typ) {
			out[fmt.Sprintf("attribute %d", typ)] = hex.EncodeToString(value)
		}
	}
	if spec, err := steadySpec(attrs[unix.IFLA_AF_SPEC]); err == nil {
		out[fmt.Sprintf("attribute %d", unix.IFLA_AF_SPEC)] = spec
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, err
	}
	out["altnames"] = strings.Join(slices.Sorted(slices.Values(l.Attrs().AltNames)), " ")
	if n, err := TCXPrograms(index); err == nil && n > 0 {
		out["tcx"] = fmt.Sprint(n)
	}
	if all, err := netlink.QdiscList(l); err == nil {
		for _, q := range all {
			if q.Type() == "tbf" || q.Type() == "clsact" || q.Type() == "ingress" {
				out["qdisc "+q.Type()] = "there"
			}
		}
	}
	for name, value := range ethtoolState(l.Attrs().Name) {
		out["ethtool "+name] = value
	}
	out["hears"] = strings.Join(hears(l.Attrs().Name), " ")
	return out, nil
}

// attributes are the IFLA_* of a link as the kernel writes them.
func attributes(index int) (map[int][]byte, uint32, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	out, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil || len(out) == 0 {
		return nil, 0, fmt.Errorf("describe link %d: %w", index, err)
	}
	attrs, err := nl.ParseRouteAttr(out[0][unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, 0, err
	}
	all := map[int][]byte{}
	for _, a := range attrs {
		all[int(a.Attr.Type&^unix.NLA_F_NESTED)] = a.Value
	}
	return all, nl.DeserializeIfInfomsg(out[0]).Flags, nil
}

// steadySpec is IFLA_AF_SPEC without the counters and the random times of IPv6.
func steadySpec(value []byte) (out string, err error) {
	families, err := nl.ParseRouteAttr(value)
	if err != nil {
		return "", err
	}
	for _, f := range families {
		attrs, err := nl.ParseRouteAttr(f.Value)
		if err != nil {
			return "", err
		}
		for _, a := range attrs {
			if f.Attr.Type == unix.AF_INET || slices.Contains([]uint16{unix.IFLA_INET6_CONF, unix.IFLA_INET6_TOKEN, unix.IFLA_INET6_ADDR_GEN_MODE}, a.Attr.Type) {
				out += fmt.Sprintf("%d/%d %x ", f.Attr.Type, a.Attr.Type, a.Value)
			}
		}
	}
	return out, nil
}

// hears are the link-layer multicast addresses of the link, without those that every netns adds for IPv4
// and IPv6 multicast.
func hears(name string) (all []string) {
	f, err := os.Open("/proc/thread-self/net/dev_mcast")
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 5 && fields[1] == name && !strings.HasPrefix(fields[4], "01005e") && !strings.HasPrefix(fields[4], "3333") {
			all = append(all, fields[4])
		}
	}
	slices.Sort(all)
	return all
}
