package attach_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

type wire struct {
	Dst      string `json:"dst"`
	GW       string `json:"gw,omitempty"`
	Priority int    `json:"priority,omitempty"`
	Table    int    `json:"table,omitempty"`
	Scope    *int   `json:"scope,omitempty"`
}

func (w wire) v4() bool { return netip.MustParsePrefix(w.Dst).Addr().Is4() }

// scene is a pod with routes through its eth0, and the routes that an attachment wants.
type scene struct {
	Pod       []wire
	Addresses []map[string]string
	IPAM      []wire // the address plugin's
	Own       []wire // the netconf's; the reference has one list
	Shared    bool   // by macvlan as delegate, which makes its own part of the routes
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomRoute(r *rand.Rand, v4 bool, gateways []string) wire {
	w := wire{Priority: pick(r, 0, 0, 0, 100, 1024), Table: pick(r, 0, 0, 0, 100, 300), GW: pick(r, gateways...)}
	if v4 {
		w.Dst = pick(r, "0.0.0.0/0", "0.0.0.0/0", "10.100.0.0/16", "10.9.0.0/16", "10.0.2.0/24", "10.1.0.0/24", "192.0.2.7/32")
	} else {
		w.Dst = pick(r, "::/0", "::/0", "fd09::/64", "fd00:2::/64", "fd00:1::/64", "2001:db8::1/128")
	}
	if w.GW != "" && r.IntN(8) == 0 {
		w.Scope = new(int)
	}
	return w
}

func randomScene(r *rand.Rand) (s scene) {
	v4, v6 := r.IntN(4) > 0, r.IntN(2) > 0
	v4, s.Shared = v4 || !v6, r.IntN(3) == 0
	gateways := map[bool][]string{true: {"10.0.2.1", "10.0.2.1", "10.0.2.2"}, false: {"fd00:2::1", "fd00:2::1", "fe80::1"}}
	if r.IntN(10) == 0 {
		gateways[true] = append(gateways[true], "10.77.0.1") // in no subnet
	}
	for _, a := range []struct {
		has         bool
		address, gw string
	}{{v4, "10.0.2.15/24", "10.0.2.1"}, {v6, "fd00:2::15/64", "fd00:2::1"}} {
		if !a.has {
			continue
		}
		address := map[string]string{"address": a.address}
		if r.IntN(3) > 0 {
			address["gateway"] = a.gw
		}
		s.Addresses = append(s.Addresses, address)
		gateways[a.address == "10.0.2.15/24"] = append(gateways[a.address == "10.0.2.15/24"], "", "")
	}
	for range r.IntN(5) {
		if of4 := r.IntN(2) > 0; of4 {
			s.Pod = append(s.Pod, randomRoute(r, true, []string{"", "10.1.0.1", "10.1.0.2"}))
		} else {
			s.Pod = append(s.Pod, randomRoute(r, false, []string{"", "fd00:1::1", "fe80::2"}))
		}
	}
	for range r.IntN(6) {
		of4 := v4 && (!v6 || r.IntN(2) > 0)
		w := randomRoute(r, of4, gateways[of4])
		if r.IntN(2) > 0 {
			s.IPAM = append(s.IPAM, w)
		} else {
			s.Own = append(s.Own, w)
		}
	}
	return s
}

func (s *scene) all() []wire { return slices.Concat(s.IPAM, s.Own) }

func (s *scene) furnish(t *testing.T, netns string) {
	t.Helper()
	must(t, nstest.In(netns, func() error {
		for _, conf := range []string{"all", "default"} { // the reference waits for duplicate address detection
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/accept_dad", []byte("0"), 0o644); err != nil {
				return err
			}
		}
		eth0 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"}
		if err := netlink.LinkAdd(eth0); err != nil {
			return err
		}
		for _, name := range []string{"wire", "eth0"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		for _, a := range []string{"10.1.0.5/24", "fd00:1::5/64"} {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(eth0, addr); err != nil {
				return err
			}
		}
		for _, w := range s.Pod {
			_, dst, err := net.ParseCIDR(w.Dst)
			if err != nil {
				return err
			}
			route := &netlink.Route{LinkIndex: eth0.Index, Dst: dst, Priority: w.Priority, Table: w.Table}
			if w.GW != "" {
				route.Gw = net.ParseIP(w.GW)
			}
			_ = netlink.RouteAddEcmp(route) // the same in both pods, whether it can be or not
		}
		return nil
	}))
}

// tables returns the routes of a netns in the kernel's order, which decides between them,
// with names for indexes. It omits the scope of a route without a gateway, in which
// multi-eni and the reference differ.
func tables(t *testing.T, netns string) (lines []string) {
	t.Helper()
	must(t, nstest.In(netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		names := map[int]string{}
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range all {
				if r.Table == unix.RT_TABLE_LOCAL || r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
					continue
				}
				hops := r.MultiPath
				if len(hops) == 0 {
					hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
				}
				line := fmt.Sprintf("table %d %s metric %d proto %d type %d", r.Table, r.Dst, r.Priority, r.Protocol, r.Type)
				for _, hop := range hops {
					line += fmt.Sprintf(" via %s dev %s", hop.Gw, names[hop.LinkIndex])
				}
				if r.Gw != nil {
					line += fmt.Sprintf(" scope %d", r.Scope)
				}
				lines = append(lines, line)
			}
		}
		return nil
	}))
	return lines
}

// repeats reports whether two routes are equal once gateways are filled in. The reference
// then fails at the second one.
func (s *scene) repeats() bool {
	var seen []wire
	for _, w := range s.all() {
		w = s.filled(w)
		w.Scope = nil
		if !w.v4() && w.Priority == 0 {
			w.Priority = 1024
		}
		if w.Table == 0 {
			w.Table = unix.RT_TABLE_MAIN
		}
		if slices.Contains(seen, w) {
			return true
		}
		seen = append(seen, w)
	}
	return false
}

func (s *scene) filled(w wire) wire {
	for _, a := range s.Addresses {
		if w.GW == "" && netip.MustParsePrefix(a["address"]).Addr().Is4() == w.v4() {
			w.GW = a["gateway"]
		}
	}
	return w
}

// reaches reports whether an earlier route without a gateway covers a later one's gateway.
// Ours has scope link, as in ip-route(8). The reference's has scope universe, through
// which the kernel finds no gateway.
func (s *scene) reaches() bool {
	var onLink []netip.Prefix
	for _, w := range s.all() {
		w = s.filled(w)
		if gw, err := netip.ParseAddr(w.GW); err == nil && slices.ContainsFunc(onLink, func(p netip.Prefix) bool { return p.Contains(gw) }) {
			return true
		}
		if w.GW == "" {
			onLink = append(onLink, netip.MustParsePrefix(w.Dst))
		}
	}
	return false
}
