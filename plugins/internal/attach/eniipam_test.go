package attach_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestENIIPAM: a pod that owns the ENI gets the ENI's addresses without another plugin.
// They leave no trace.
func TestENIIPAM(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	for _, s := range []string{"10.0.2.15/24", "10.0.2.16/24", "fd00:2::15/64"} {
		e.inv.Devices[0].Addresses = append(e.inv.Devices[0].Addresses, netip.MustParsePrefix(s))
	}
	e.writeInventory()
	e.path = t.TempDir() // no plugin is there
	before := e.snapshot()
	ask := func(ipam map[string]any, more ...map[string]any) *skel.CmdArgs {
		ipam["type"] = "eni-ipam"
		conf := map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": ipam}
		for _, m := range more {
			for k, v := range m {
				conf[k] = v
			}
		}
		return e.pod(conf)
	}
	for name, tt := range map[string]struct {
		args   *skel.CmdArgs
		want   []string
		routes []string
	}{
		"primary":   {ask(map[string]any{}), []string{"10.0.2.15/24"}, nil},
		"all":       {ask(map[string]any{"addresses": "all"}), []string{"10.0.2.15/24", "10.0.2.16/24"}, nil},
		"dual":      {ask(map[string]any{"families": []string{"ipv6", "ipv4"}}), []string{"fd00:2::15/64", "10.0.2.15/24"}, nil},
		"default":   {ask(map[string]any{"routes": []any{map[string]any{"dst": "0.0.0.0/0"}}}), []string{"10.0.2.15/24"}, []string{"0.0.0.0/0"}},
		"requested": {ask(map[string]any{}, map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.0.2.16/24"}}}), []string{"10.0.2.16/24"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := e.add(tt.args)
			checkOwned(t, r, tt.want, tt.routes)
			_, err := run(&attach.Plugin{}, "CHECK", withPrev(t, tt.args, r))
			must(t, err)
			e.del(tt.args)
			e.del(tt.args)
			e.unchanged(before, "after DEL")
		})
	}

	byArgs := ask(map[string]any{})
	byArgs.Args = "IgnoreUnknown=1;IP=10.0.2.16/24"
	if r := e.add(byArgs); len(r.IPs) != 1 || r.IPs[0].Address.String() != "10.0.2.16/24" {
		t.Errorf("IP of CNI_ARGS: %v", r.IPs)
	}
	e.del(byArgs)

	foreign := ask(map[string]any{}, map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.0.2.99"}}})
	e.refused("ADD", foreign, 102, "10.0.2.99", "10.0.2.15, 10.0.2.16, fd00:2::15")
	unasked := ask(map[string]any{"families": []string{"ipv6"}}, map[string]any{"select": map[string]any{"nodeENI": "b"}})
	e.inv.Devices[1].Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.3.15/24")}
	e.writeInventory()
	e.refused("ADD", unasked, 102, "no ipv6 address", "10.0.3.15", "ipam.families")
	e.inv.Devices[1].Addresses = nil
	e.writeInventory()
	e.refused("ADD", unasked, 11, "not known yet")
	e.refused("ADD", ask(map[string]any{"families": []string{"ipv6"}, "routes": []any{map[string]any{"dst": "0.0.0.0/0"}}}), 102, "ipam.routes", "0.0.0.0/0",
		"ipam.families")
	e.refused("ADD", ask(map[string]any{}, map[string]any{"delegate": map[string]any{"type": "vlan"}}), 7, "ipam.type", "inside a VLAN")
	byArgs.Args = "IP=nonsense"
	e.refused("ADD", byArgs, 4, "CNI_ARGS", "nonsense")
	_, err := run(&attach.Plugin{}, "STATUS", ask(map[string]any{}))
	must(t, err)
	_, err = run(&attach.Plugin{}, "GC", ask(map[string]any{}))
	must(t, err)
	e.unchanged(before, "after refusals")
}

func checkOwned(t *testing.T, r *types100.Result, want, wantRoutes []string) {
	t.Helper()
	var got, routes []string
	for _, ip := range r.IPs {
		got = append(got, ip.Address.String())
		if v4 := ip.Address.IP.To4() != nil; v4 != (ip.Gateway.String() == "10.0.2.1") {
			t.Errorf("%s by %s", ip.Address.String(), ip.Gateway)
		}
	}
	for _, route := range r.Routes {
		routes = append(routes, route.Dst.String())
	}
	if diff := cmp.Diff(want, got) + cmp.Diff(wantRoutes, routes); diff != "" {
		t.Errorf("addresses and routes (-want +got):\n%s", diff)
	}
}

func TestENIIPAMWithoutInventory(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	must(t, os.Remove(e.file("inventory.json")))
	args := e.pod(map[string]any{"deviceID": eniA.PCI, "ipam": map[string]any{"type": "eni-ipam"}})
	e.refused("ADD", args, 11, eniA.PCI, "multi-enid")
	e.refused("STATUS", args, 50, "inventory.json")
}
