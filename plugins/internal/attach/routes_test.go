package attach_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// routesSearch, in the environment, has TestRoutesAsReference search for longer, from
// another seed: a duration and a number.
//
//	MULTI_ENI_ROUTES_SEARCH="5m 7" go test ./plugins/internal/attach -run TestRoutesAsReference
const routesSearch = "MULTI_ENI_ROUTES_SEARCH"

// wire is a route as a netconf or an IPAM plugin's has it.
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

// furnish gives a pod an eth0 and the scene's routes through it.
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

// reference runs host-device from the reference project.
func (e *env) reference(verb string, args *skel.CmdArgs, conf map[string]any) (*types100.Result, error) {
	e.t.Helper()
	conf["cniVersion"], conf["name"], conf["type"] = "1.1.0", "reference", "host-device"
	data, err := json.Marshal(conf)
	must(e.t, err)
	env := &invoke.Args{Command: verb, ContainerID: args.ContainerID, NetNS: args.Netns, IfName: args.IfName, Path: e.path}
	plugin := filepath.Join(e.path, "host-device")
	if verb != "ADD" {
		return nil, invoke.ExecPluginWithoutResult(e.t.Context(), plugin, data, env, nil)
	}
	r, err := invoke.ExecPluginWithResult(e.t.Context(), plugin, data, env, nil)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(r)
}

// TestRoutesAsReference: random routes of an attachment meet random routes of its pod,
// with multi-eni and with the reference project's host-device. Both succeed or both fail,
// with equal results and kernel tables, and CHECK agrees. A failed ADD, or DEL, leaves the
// pod's own routes as before. Three differences are intended: our result has the kernel's
// gateways, and repeats and reaches.
func TestRoutesAsReference(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	shared := e.shared()
	nic, err := netlink.LinkByName("ens12")
	must(t, err)
	must(t, netlink.LinkSetUp(nic))
	long, seed, n := 4*time.Second, uint64(1), 0
	if more := os.Getenv(routesSearch); more != "" {
		var text string
		_, err := fmt.Sscan(more, &text, &seed)
		must(t, err)
		long, err = time.ParseDuration(text)
		must(t, err)
	}
	for end := time.Now().Add(long); time.Now().Before(end) || n < 10; seed++ {
		s := randomScene(rand.New(rand.NewPCG(seed, 0))) //nolint:gosec // a repeatable search
		if !e.sameAsReference(&s, shared) {
			text, err := json.Marshal(s)
			must(t, err)
			t.Fatalf("seed %d: %s", seed, text)
		}
		n++
	}
	t.Logf("%d scenes", n)
}

func (e *env) sameAsReference(s *scene, shared map[string]any) bool {
	t := e.t
	own := map[string]any{"select": map[string]any{"nodeENI": "a"}}
	if s.Shared {
		own = maps.Clone(shared)
	}
	own["routes"], own["ipam"] = s.Own, map[string]any{"type": "static", "addresses": s.Addresses, "routes": s.IPAM}
	ours := e.pod(own)
	theirs := e.pod(nil)
	defer func() {
		must(t, nstest.DeleteNetns(ours.Netns))
		must(t, nstest.DeleteNetns(theirs.Netns))
	}()
	s.furnish(t, ours.Netns)
	s.furnish(t, theirs.Netns)
	before := tables(t, ours.Netns)
	conf := map[string]any{"device": eniB.Name, "ipam": map[string]any{"type": "static", "addresses": s.Addresses, "routes": s.all()}}
	want, refErr := e.reference("ADD", theirs, conf)
	out, err := run(&attach.Plugin{}, "ADD", ours)
	explained := refErr != nil && err == nil && (s.repeats() && strings.Contains(refErr.Error(), "file exists") ||
		s.reaches() && (strings.Contains(refErr.Error(), "unreachable") || strings.Contains(refErr.Error(), "no route to host")))
	if (err == nil) != (refErr == nil) && !explained {
		t.Errorf("ADD: %v; reference: %v", err, refErr)
	}
	if err == nil {
		result := parseResult(t, out)
		e.holds(ours, result)
		if _, err := run(&attach.Plugin{}, "CHECK", withPrev(t, ours, result)); err != nil {
			t.Errorf("CHECK after ADD: %v", err)
		}
		if refErr == nil {
			compareResults(t, s, result, want)
			if diff := cmp.Diff(tables(t, theirs.Netns), tables(t, ours.Netns)); diff != "" {
				t.Errorf("the kernel's routes (-reference +ours):\n%s", diff)
			}
		}
	} else if diff := cmp.Diff(before, tables(t, ours.Netns)); diff != "" {
		t.Errorf("the pod's routes after a failed ADD (%v) (-before +after):\n%s", err, diff)
	}
	e.del(ours)
	if diff := cmp.Diff(before, tables(t, ours.Netns)); diff != "" {
		t.Errorf("the pod's routes after DEL (-before +after):\n%s", diff)
	}
	_, err = e.reference("DEL", theirs, conf)
	must(t, err)
	return !t.Failed()
}

func compareResults(t *testing.T, s *scene, got, want *types100.Result) {
	t.Helper()
	if diff := cmp.Diff(want.IPs, got.IPs); diff != "" {
		t.Errorf("ips (-reference +ours):\n%s", diff)
	}
	for i, r := range want.Routes { // as ConfigureIface fills it in for the kernel
		if r.GW == nil {
			if gw := s.filled(s.all()[i]).GW; gw != "" {
				r.GW = net.ParseIP(gw)
			}
		}
	}
	text := func(r *types100.Result) (lines []string) {
		for _, route := range r.Routes {
			lines = append(lines, route.String())
		}
		return lines
	}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("routes (-reference +ours):\n%s", diff)
	}
}

// holds requires each route of a result to be in the kernel.
func (e *env) holds(args *skel.CmdArgs, result *types100.Result) {
	e.t.Helper()
	have := tables(e.t, args.Netns)
	for _, r := range result.Routes {
		table, metric := unix.RT_TABLE_MAIN, r.Priority
		if r.Table != nil {
			table = *r.Table
		}
		if metric == 0 && r.Dst.IP.To4() == nil {
			metric = 1024
		}
		prefix := fmt.Sprintf("table %d %s metric %d ", table, r.Dst.String(), metric)
		hop := fmt.Sprintf(" via %s dev %s", r.GW, args.IfName)
		if !slices.ContainsFunc(have, func(line string) bool {
			hides := r.GW == nil && strings.Count(line, " via ") > 1 // see link.TestHiddenRoute
			return strings.HasPrefix(line, prefix) && (hides || strings.Contains(line+" ", hop+" "))
		}) {
			e.t.Errorf("the result has route %s, the kernel has not:\n%s", r, strings.Join(have, "\n"))
		}
	}
}

// TestTwoNetworksOneDestination: two networks of a pod lead to one destination, each
// through its subnet's router, beside a route of eth0. The kernel has all routes, CHECK
// finds them, and the end of one attachment leaves the others'.
func TestTwoNetworksOneDestination(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	shared := e.sharing(map[string]any{"routes": []any{map[string]any{"dst": "vpc"}}}, "10.0.4.15/24", "10.0.4.16/24")
	for i, a := range []string{"10.0.2.15/24", "10.0.3.15/24"} {
		d := &e.inv.Devices[i]
		d.Addresses, d.VPCCIDRs = []netip.Prefix{mustPrefix(a)}, []netip.Prefix{mustPrefix("10.100.0.0/16")}
	}
	e.inv.Devices[2].VPCCIDRs = e.inv.Devices[0].VPCCIDRs
	e.writeInventory()
	network := func(name string) map[string]any {
		return map[string]any{"name": "of-" + name, "select": map[string]any{"nodeENI": name}, "ipam": map[string]any{"type": "eni-ipam"}}
	}
	a, b := network("a"), network("b")
	a["routes"] = []any{map[string]any{"dst": "10.100.0.0/16", "gw": "10.0.2.1"}}
	b["ipam"] = map[string]any{"type": "eni-ipam", "routes": []any{map[string]any{"dst": "vpc"}}}
	first := e.pod(a)
	(&scene{Pod: []wire{{Dst: "10.100.0.0/16", GW: "10.1.0.1"}}}).furnish(t, first.Netns)
	before := tables(t, first.Netns)
	all := []*skel.CmdArgs{first}
	for i, conf := range []map[string]any{b, shared} {
		args := *first
		args.IfName, args.StdinData = fmt.Sprintf("net%d", i+2), e.conf(conf)
		all = append(all, &args)
	}
	for _, args := range all {
		prev := withPrev(t, args, e.add(args))
		args.StdinData = prev.StdinData
	}
	want := []string{ // the last comes first
		"via 10.0.4.1 dev net3", "via 10.0.3.1 dev net2", "via 10.0.2.1 dev net1", "via 10.1.0.1 dev eth0",
	}
	leading := func() (out []string) {
		for _, line := range tables(t, first.Netns) {
			if by, ok := strings.CutPrefix(line, "table 254 10.100.0.0/16 metric 0 proto 3 type 1 "); ok {
				out = append(out, strings.TrimSuffix(by, " scope 0"))
			}
		}
		return out
	}
	for _, args := range slices.Backward(all) {
		if diff := cmp.Diff(want, leading()); diff != "" {
			t.Errorf("routes (-want +got):\n%s", diff)
		}
		_, err := run(&attach.Plugin{}, "CHECK", args)
		must(t, err)
		e.del(args)
		want = want[1:]
	}
	if diff := cmp.Diff(before, tables(t, first.Netns)); diff != "" {
		t.Errorf("the pod's routes after all DELs (-before +after):\n%s", diff)
	}
}

// TestRouteRefusals: a route that conflicts with another is refused with the destination
// and the owner. One with an unreachable gateway is refused with the gateway.
func TestRouteRefusals(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	for i, tt := range []struct {
		routes []any
		words  []string
	}{
		{[]any{map[string]any{"dst": "fd09::/64", "gw": "fd00:2::1"}, map[string]any{"dst": "fd09::/64", "gw": "fd00:2::1", "mtu": 1400}},
			[]string{"routes", "fd09::/64", "via fd00:2::1 dev net1 metric 1024"}},
		{[]any{map[string]any{"dst": "10.9.0.0/16", "gw": "10.66.0.1"}}, []string{"routes", "10.66.0.1", "10.9.0.0/16"}},
	} {
		conf := e.selectA()
		conf["routes"] = tt.routes
		args := e.pod(conf)
		before := e.snapshot()
		e.refused("ADD", args, 102, tt.words...)
		e.unchanged(before, fmt.Sprintf("after refusal %d", i))
	}
}

// TestRouteKeys: each key of a route reaches the kernel, and the defaults are as in
// docs/netconf.md.
func TestRouteKeys(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := map[string]any{"select": map[string]any{"nodeENI": "a"}, "routes": []any{
		map[string]any{"dst": "10.9.0.0/16", "gw": "10.0.2.9", "mtu": 1400, "advmss": 1300, "priority": 7, "table": 300, "scope": 0},
		map[string]any{"dst": "10.8.0.0/16"}, // by the first address's gateway
		map[string]any{"dst": "10.7.0.0/16", "scope": 253},
		map[string]any{"dst": "fd08::/64"}, // no address of the family has one
	}, "ipam": map[string]any{"type": "static", "addresses": []any{
		map[string]any{"address": "10.0.2.15/24", "gateway": "10.0.2.1"}, map[string]any{"address": "10.0.3.15/24", "gateway": "10.0.3.1"},
		map[string]any{"address": "fd00:2::15/64"},
	}, "routes": []any{map[string]any{"dst": "10.6.0.0/16"}}}}
	args := e.pod(conf)
	result := e.add(args)
	want := map[string]string{
		"10.9.0.0/16": "via 10.0.2.9 mtu 1400 advmss 1300 metric 7 table 300 scope 0",
		"10.8.0.0/16": "via 10.0.2.1 mtu 0 advmss 0 metric 0 table 254 scope 0",
		"10.7.0.0/16": "via <nil> mtu 0 advmss 0 metric 0 table 254 scope 253",
		"10.6.0.0/16": "via 10.0.2.1 mtu 0 advmss 0 metric 0 table 254 scope 0",
		"fd08::/64":   "via <nil> mtu 0 advmss 0 metric 1024 table 254 scope 0",
		"10.0.2.0/24": "via <nil> mtu 0 advmss 0 metric 0 table 254 scope 253", // the subnets are on the link
		"10.0.3.0/24": "via <nil> mtu 0 advmss 0 metric 0 table 254 scope 253",
	}
	got := map[string]string{}
	must(t, nstest.In(args.Netns, func() error {
		all, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range all {
			if r.Dst != nil && want[r.Dst.String()] != "" && r.Table != unix.RT_TABLE_LOCAL {
				got[r.Dst.String()] = fmt.Sprintf("via %v mtu %d advmss %d metric %d table %d scope %d", r.Gw, r.MTU, r.AdvMSS, r.Priority, r.Table, r.Scope)
			}
		}
		return err
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if len(result.Routes) != 5 {
		t.Errorf("the result has %v", result.Routes)
	}
	e.del(args)
}

// TestUndoSparesThePodsRoutes: an ADD that is killed at any step and undone by DEL leaves
// the pod's own routes, even those to the same networks.
func TestUndoSparesThePodsRoutes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	s := scene{Pod: []wire{
		{Dst: "0.0.0.0/0", GW: "10.1.0.1"}, {Dst: "10.9.0.0/16", GW: "10.1.0.1"}, {Dst: "10.0.2.0/24"}, {Dst: "::/0", GW: "fd00:1::1"},
		{Dst: "fd09::/64", GW: "fe80::2", Table: 300},
	}}
	exclusive, shared := e.selectA(), e.shared()
	nic, err := netlink.LinkByName("ens12")
	must(t, err)
	must(t, netlink.LinkSetUp(nic))
	for _, conf := range []map[string]any{exclusive, shared} {
		conf["ipam"] = map[string]any{"type": "static", "addresses": []any{
			map[string]any{"address": "10.0.2.15/24", "gateway": "10.0.2.1"}, map[string]any{"address": "fd00:2::15/64", "gateway": "fd00:2::1"},
		}}
		conf["routes"] = []any{
			map[string]any{"dst": "0.0.0.0/0"}, map[string]any{"dst": "10.9.0.0/16"}, map[string]any{"dst": "::/0"},
			map[string]any{"dst": "fd09::/64", "table": 300},
		}
		args := e.pod(conf)
		s.furnish(t, args.Netns)
		before := tables(t, args.Netns)
		steps := 0
		for more := true; more; {
			steps++
			more = e.kill("ADD", steps, args)
			if after := tables(t, args.Netns); !more && len(after) <= len(before) {
				t.Errorf("ADD has added no routes: %q", after)
			}
			e.del(args)
			if diff := cmp.Diff(before, tables(t, args.Netns)); diff != "" {
				t.Fatalf("the pod's routes after an ADD that was killed before step %d (-before +after):\n%s", steps, diff)
			}
		}
		if steps < 7 {
			t.Errorf("ADD has had %d steps", steps)
		}
	}
}
