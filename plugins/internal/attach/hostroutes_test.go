package attach_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// hostRoute is a default route of the host, as a network manager makes it.
type hostRoute struct {
	// By is the link; "" for a route with two next hops, by the primary ENI and ens12.
	By       string
	V6       bool
	Protocol int // rtm_protocol
	Metric   int
}

type hostScene struct {
	Routes []hostRoute
	// Mode is the pod's attachment: "exclusive", "delegate" for host-device, "shared", or
	// "no row" for an exclusive pod whose device is not in the inventory.
	Mode string
}

const (
	primaryName = "eth0"
	eniName     = "ens12"
)

func randomHost(r *rand.Rand) (s hostScene) {
	s.Mode = pick(r, "exclusive", "exclusive", "delegate", "shared", "shared", "no row")
	for _, v6 := range []bool{false, true} {
		if r.IntN(4) > 0 {
			s.Routes = append(s.Routes, hostRoute{By: primaryName, V6: v6, Metric: 100, Protocol: pick(r, unix.RTPROT_DHCP, unix.RTPROT_STATIC, unix.RTPROT_RA)})
		}
		for range r.IntN(3) {
			s.Routes = append(s.Routes, hostRoute{
				By: eniName, V6: v6, Metric: pick(r, 100, 200, 300),
				Protocol: pick(r, unix.RTPROT_DHCP, unix.RTPROT_STATIC, unix.RTPROT_RA, unix.RTPROT_KERNEL, unix.RTPROT_BOOT),
			})
		}
		if r.IntN(8) == 0 {
			s.Routes = append(s.Routes, hostRoute{V6: v6, Metric: pick(r, 50, 500), Protocol: unix.RTPROT_STATIC})
		}
	}
	return s
}

// refused is the rule for default routes in its shortest form.
func (s hostScene) refused() bool {
	for _, r := range s.Routes {
		if r.By == primaryName {
			continue
		}
		elsewhere := slices.ContainsFunc(s.Routes, func(o hostRoute) bool { return o.V6 == r.V6 && o.By != eniName })
		announced := r.Protocol == unix.RTPROT_RA && !s.joined(r)
		if s.Mode == "no row" || !elsewhere && !announced || r.By == "" && !r.V6 {
			return true
		}
	}
	return false
}

// joined reports whether the kernel has merged r with another IPv6 route into one with
// several next hops. It reports only one protocol for that route.
func (s hostScene) joined(r hostRoute) bool {
	n := 0
	for _, o := range s.Routes {
		if o.V6 && r.V6 && o.Metric == r.Metric {
			n++
		}
	}
	return n > 1
}

// furnish gives the host the scene's addresses and routes, and unrelated routes: into a
// network, and in another table.
func (s hostScene) furnish(t *testing.T) {
	t.Helper()
	for _, set := range []func(netlink.Link) error{netlink.LinkSetDown, netlink.LinkSetUp} { // nothing is left of the scene before
		for _, name := range []string{primaryName, eniName} {
			l, err := netlink.LinkByName(name)
			must(t, err)
			must(t, set(l))
		}
	}
	links := map[string]int{}
	for at, name := range []string{primaryName, eniName} {
		l, err := netlink.LinkByName(name)
		must(t, err)
		links[name] = l.Attrs().Index
		for _, format := range []string{"10.0.%d.5/24", "fd00:%d::5/64"} {
			a, err := netlink.ParseAddr(fmt.Sprintf(format, at+7))
			must(t, err)
			a.Flags = unix.IFA_F_NODAD
			must(t, netlink.AddrReplace(l, a))
		}
		for _, r := range []netlink.Route{{Dst: ipNet(t, fmt.Sprintf("10.%d.0.0/16", at+70))}, {Dst: ipNet(t, "0.0.0.0/0"), Table: 10001 + at}} {
			r.LinkIndex, r.Protocol = links[name], unix.RTPROT_DHCP
			must(t, netlink.RouteAdd(&r))
		}
	}
	for i, r := range s.Routes {
		format, dst := "10.0.%d.%d", "0.0.0.0/0"
		if r.V6 {
			format, dst = "fd00:%d::%d", "::/0"
		}
		gw := func(at int) net.IP { return net.ParseIP(fmt.Sprintf(format, at+7, 100+i)) }
		route := netlink.Route{Dst: ipNet(t, dst), Priority: r.Metric, Protocol: netlink.RouteProtocol(r.Protocol)}
		switch r.By {
		case primaryName:
			route.LinkIndex, route.Gw = links[r.By], gw(0)
		case eniName:
			route.LinkIndex, route.Gw = links[r.By], gw(1)
		default:
			route.MultiPath = []*netlink.NexthopInfo{{LinkIndex: links[primaryName], Gw: gw(0)}, {LinkIndex: links[eniName], Gw: gw(1)}}
		}
		if err := netlink.RouteAppend(&route); err != nil {
			t.Fatalf("add route %s: %v\n%s", route, err, strings.Join(hostRoutes(t), "\n"))
		}
	}
}

func ipNet(t *testing.T, s string) *net.IPNet {
	t.Helper()
	_, n, err := net.ParseCIDR(s)
	must(t, err)
	return n
}

func hostRoutes(t *testing.T) (lines []string) {
	t.Helper()
	for _, line := range tables(t, "/proc/self/ns/net") {
		what, hops, _ := strings.Cut(line, " via ")
		what, _, _ = strings.Cut(what, " proto ")
		for hop := range strings.SplitSeq(hops, " via ") {
			hop, _, _ = strings.Cut(hop, " scope ")
			lines = append(lines, what+" via "+hop)
		}
	}
	slices.Sort(lines)
	return lines
}

func (s hostScene) netconf(e *env, shared map[string]any) map[string]any {
	switch s.Mode {
	case "shared":
		return shared
	case "delegate":
		return map[string]any{"select": shared["select"], "delegate": map[string]any{"type": "host-device", "deviceField": "device"}}
	case "no row":
		return map[string]any{"deviceID": "0000:00:0c.0", "inventory": e.file("none.json")}
	}
	return map[string]any{"select": shared["select"]}
}

// TestHostRoutes: in generated scenes ADD follows the rule, and removes only the ENI's own
// routes.
func TestHostRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t, nstest.ENI{PCI: "0000:00:05.0", Name: primaryName, MAC: "02:00:00:00:00:00"})
	shared := e.shared()
	outcomes := map[string]int{}
	r := rand.New(rand.NewPCG(18, 0))
	for range 120 {
		s := randomHost(r)
		s.furnish(t)
		before := hostRoutes(t)
		args := e.pod(s.netconf(e, shared))
		_, ready := run(&attach.Plugin{}, "STATUS", args)
		_, err := run(&attach.Plugin{}, "ADD", args)
		if err != nil || s.refused() {
			wantCode(t, err, 102, eniName, "default route")
		}
		if s.Mode != "no row" && (ready != nil) != (err != nil) {
			t.Errorf("STATUS says %v, ADD %v", ready, err)
		}
		if (err != nil) != s.refused() {
			t.Errorf("ADD: %v; refused by the rule: %v\n%+v", err, s.refused(), s)
		}
		left := before
		if err == nil {
			left = slices.DeleteFunc(slices.Clone(before), func(line string) bool {
				isDefault := strings.HasPrefix(line, "table 254 ") && (strings.Contains(line, " 0.0.0.0/0 ") || strings.Contains(line, " ::/0 "))
				return strings.HasSuffix(line, " dev "+eniName) && (s.Mode != "shared" || isDefault)
			})
		}
		e.del(args)
		if diff := gocmp.Diff(left, hostRoutes(t)); diff != "" {
			t.Errorf("the host's routes after ADD (%v) and DEL (-want +got):\n%s\n%+v", err, diff, s)
		}
		outcomes[fmt.Sprintf("%s %v", s.Mode, err == nil)]++
		if t.Failed() {
			t.FailNow()
		}
	}
	for _, mode := range []string{"exclusive", "delegate", "shared", "no row"} {
		if outcomes[mode+" true"] == 0 || outcomes[mode+" false"] == 0 {
			t.Errorf("pods that got the ENI, and pods that did not: %v", outcomes)
		}
	}
}

// TestRefusedRouteIsNamed: a refusal names link, family and author of the route, and the
// remedy.
func TestRefusedRouteIsNamed(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t, nstest.ENI{PCI: "0000:00:05.0", Name: primaryName, MAC: "02:00:00:00:00:00"})
	shared := e.shared()
	for _, tt := range []struct {
		scene hostScene
		words []string
	}{
		{hostScene{Mode: "exclusive", Routes: []hostRoute{{By: eniName, Protocol: unix.RTPROT_DHCP}}}, []string{"the host's only IPv4 default route (proto dhcp)",
			"through another link"}},
		{hostScene{Mode: "shared", Routes: []hostRoute{{By: eniName, V6: true, Protocol: unix.RTPROT_STATIC}}}, []string{"only IPv6 default route (proto static)",
			"through another link"}},
		{hostScene{Mode: "shared", Routes: []hostRoute{{Protocol: unix.RTPROT_STATIC}}}, []string{"several next hops", "IPv4", "remove that next hop"}},
		{hostScene{Mode: "no row", Routes: []hostRoute{{By: primaryName, Metric: 9}, {By: eniName, Protocol: unix.RTPROT_DHCP}}},
			[]string{"may be the primary ENI", "declare it by a NodeENI"}},
	} {
		tt.scene.furnish(t)
		e.refused("ADD", e.pod(tt.scene.netconf(e, shared)), 102, append(tt.words, "0000:00:0c.0 (ens12)")...)
	}
}

func dhcpRoute(t *testing.T) {
	t.Helper()
	l, err := netlink.LinkByName(eniName)
	must(t, err)
	must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(t, "0.0.0.0/0"), Priority: 200, Protocol: unix.RTPROT_DHCP}))
}

func byENI(t *testing.T) (lines []string) {
	t.Helper()
	for _, line := range hostRoutes(t) {
		if strings.HasPrefix(line, "table 254 0.0.0.0/0 ") && strings.HasSuffix(line, " dev "+eniName) {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestSharersClearRoutes: pods that share a device and start at once all get it, although
// a default route appears on it again and again. If the kernel does not remove one, ADD
// asks to try again.
func TestSharersClearRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t, nstest.ENI{PCI: "0000:00:05.0", Name: primaryName, MAC: "02:00:00:00:00:00"})
	conf := e.shared()
	hostScene{Routes: []hostRoute{{By: primaryName, Metric: 100, Protocol: unix.RTPROT_DHCP}}}.furnish(t)
	var all []*skel.CmdArgs
	for round := range 4 {
		dhcpRoute(t)
		ended := make(chan error)
		for range 4 {
			args := e.pod(conf)
			all = append(all, args)
			go func() { _, err := run(&attach.Plugin{}, "ADD", args); ended <- err }()
		}
		for range 4 {
			if err := <-ended; err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if left := byENI(t); len(left) > 0 {
			t.Errorf("round %d: left after ADD: %q", round, left)
		}
	}
	dhcpRoute(t)
	fails := &attach.Plugin{Before: func(step string) error {
		return cmp.Or(map[string]error{"routes": errors.New("injected")}[step])
	}}
	args := e.pod(conf)
	e.fails(fails, "ADD", args, types.ErrTryAgainLater, "injected", "cannot be removed now")
	e.kill("ADD", 1, args) // before the routes
	if left := byENI(t); len(left) != 1 {
		t.Errorf("after an ADD that died before the routes: %q", left)
	}
	for _, args := range append(all, args) {
		e.del(args)
	}
}
