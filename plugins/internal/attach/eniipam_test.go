package attach_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestFailedADDCostsNoAddress: the address of an ADD that fails or dies is free without a
// cool-down.
func TestFailedADDCostsNoAddress(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24")
	free := func(when string) {
		t.Helper()
		if all := e.leases(); len(all) > 0 {
			t.Errorf("%s: leases %v", when, all)
		}
	}
	for i := 1; ; i++ {
		n := 0
		var name string
		_, err := run(&attach.Plugin{Before: func(s string) error {
			if n++; n == i {
				name = s
				return errors.New("injected")
			}
			return nil
		}}, "ADD", e.pod(conf))
		if err == nil {
			break
		}
		wantCode(t, err, 999, "injected")
		free("failed before " + name)
		args := e.pod(conf)
		if !e.kill("ADD", i, args) {
			t.Fatalf("ADD ended before step %s", name)
		}
		e.del(args)
		free("killed before " + name)
	}
}

// TestBrokenPod: a pod whose sandbox is created again and again has one address at a time.
func TestBrokenPod(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "10.0.2.18/24")
	for range 5 {
		args := e.pod(conf)
		args.Args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=broken"
		if got := addresses(e.add(args)); !slices.Equal(got, []string{"10.0.2.16/24"}) {
			t.Errorf("the broken pod has %v", got)
		}
		e.del(args)
	}
	e.add(e.pod(conf))
	e.add(e.pod(conf))
}

func TestLeaseGivenBackByTheRecordAlone(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	args := e.pod(e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24"))
	e.add(args)
	if held := e.held(); len(held) != 1 {
		t.Fatalf("held: %v", held)
	}
	must(t, nstest.DeleteNetns(args.Netns))
	must(t, e.node.Detach(nstest.ENI{PCI: "0000:00:0c.0", Name: "ens12"}))
	must(t, os.Remove(e.file("inventory.json")))
	args.StdinData = e.conf(map[string]any{"select": map[string]any{"nodeENI": "no more"}})
	e.del(args)
	if held := e.held(); held != nil {
		t.Errorf("held after DEL: %v", held)
	}
}

// TestLeaseAfterDeath: a pod whose netns is gone without a DEL delays no other.
func TestLeaseAfterDeath(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{"coolDown": 0}, "10.0.2.15/24", "10.0.2.16/24")
	dead, next := e.pod(conf), e.pod(conf)
	e.add(dead)
	e.refused("ADD", next, 11, "1 leased")
	must(t, nstest.DeleteNetns(dead.Netns))
	if got := addresses(e.add(next)); !slices.Equal(got, []string{"10.0.2.16/24"}) {
		t.Errorf("after the holder's death: %v", got)
	}
	e.del(dead) // after the next one
	if held := e.held(); !slices.Equal(held, []string{"10.0.2.16=leased"}) {
		t.Errorf("held: %v", held)
	}

	// GC ends leases by the runtime's list, and leases without a record.
	gc := func(valid ...any) {
		t.Helper()
		args := *next
		var fields map[string]any
		must(t, json.Unmarshal(next.StdinData, &fields))
		fields["cni.dev/valid-attachments"] = append([]any{}, valid...)
		args.StdinData, _ = json.Marshal(fields)
		e.succeeds("GC", &args)
	}
	gc(map[string]any{"containerID": next.ContainerID, "ifname": "net1"})
	if held := e.held(); len(held) != 1 {
		t.Errorf("held after GC with the holder in the list: %v", held)
	}
	must(t, os.RemoveAll(e.file("records")))
	gc(map[string]any{"containerID": next.ContainerID, "ifname": "net1"})
	if held := e.held(); len(held) != 1 {
		t.Errorf("held after GC without a record, but in the list: %v", held)
	}
	gc()
	if held := e.held(); held != nil {
		t.Errorf("held after GC without the holder: %v", held)
	}
	must(t, nstest.DeleteNetns(next.Netns))

	last := e.pod(conf)
	e.add(last)
	must(t, os.RemoveAll(e.file("records")))
	e.del(last)
	if held := e.held(); held != nil {
		t.Errorf("held after DEL without a record: %v", held)
	}
}

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
			e.succeeds("CHECK", withPrev(t, tt.args, r))
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
	e.inv.Devices[1].Addresses = prefixes("10.0.3.15/24")
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
	e.succeeds("STATUS", ask(map[string]any{}))
	e.succeeds("GC", ask(map[string]any{}))
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
