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
			equal(t, tables(t, theirs.Netns), tables(t, ours.Netns), "the kernel's routes")
		}
	} else if diff := cmp.Diff(before, tables(t, ours.Netns)); diff != "" {
		t.Errorf("the pod's routes after a failed ADD (%v) (-before +after):\n%s", err, diff)
	}
	e.del(ours)
	equal(t, before, tables(t, ours.Netns), "the pod's routes after DEL")
	_, err = e.reference("DEL", theirs, conf)
	must(t, err)
	return !t.Failed()
}

func compareResults(t *testing.T, s *scene, got, want *types100.Result) {
	t.Helper()
	equal(t, want.IPs, got.IPs, "ips")
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
	equal(t, text(want), text(got), "routes")
}

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
		d.Addresses, d.VPCCIDRs = []netip.Prefix{netip.MustParsePrefix(a)}, prefixes("10.100.0.0/16")
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
		equal(t, want, leading(), "routes")
		e.succeeds("CHECK", args)
		e.del(args)
		want = want[1:]
	}
	equal(t, before, tables(t, first.Netns), "the pod's routes after all DELs")
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
	equal(t, want, got, "routes")
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
