package attach_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// sharing makes an ENI with secondary addresses and returns the netconf of pods that share
// it through macvlan.
func (e *env) sharing(ipam map[string]any, addresses ...string) map[string]any {
	conf := e.shared()
	d := &e.inv.Devices[len(e.inv.Devices)-1]
	d.VPCCIDRs = prefixes("10.0.0.0/16", "100.64.0.0/16")
	for _, a := range addresses {
		d.Addresses = append(d.Addresses, netip.MustParsePrefix(a))
	}
	e.writeInventory()
	ipam["type"], ipam["dataDir"] = "eni-ipam", e.file("leases")
	conf["ipam"] = ipam
	return conf
}

func (e *env) leases() (out []string) {
	e.t.Helper()
	l, err := leases.Dir(e.file("leases")).Read(e.inv.BootID, e.inv.Devices[len(e.inv.Devices)-1].ENIID)
	must(e.t, err)
	for _, lease := range l.Leases {
		out = append(out, fmt.Sprintf("%s=%s", lease.Address, lease.State))
	}
	return out
}

func (e *env) held() []string {
	var out []string
	for _, s := range e.leases() {
		if strings.HasSuffix(s, "=leased") {
			out = append(out, s)
		}
	}
	return out
}

func addresses(r *types100.Result) (out []string) {
	for _, ip := range r.IPs {
		out = append(out, ip.Address.String())
	}
	return out
}

// TestLease: pods that share an ENI get an address each, without an IPAM plugin.
func TestLease(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	ipam := map[string]any{"families": []string{"ipv4", "ipv6"}, "routes": []any{map[string]any{"dst": "vpc"}, map[string]any{"dst": "0.0.0.0/0",
		"priority": 900}}}
	conf := e.sharing(ipam,
		"10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "fd00:2::15/64", "fd00:2::16/64", "fd00:2::17/64")
	conf["routes"] = []any{map[string]any{"dst": "10.77.0.0/16", "gw": "10.0.2.9"}}
	conf["runtimeConfig"] = map[string]any{"CNIDeviceInfoFile": e.file("devinfo", "a.json")}
	e.path = copyBinaries(t, e, "macvlan")
	before := e.snapshot()
	first, second, third := e.pod(conf), e.pod(conf), e.pod(conf)
	r := e.add(first)
	equal(t, []string{"10.0.2.16/24", "fd00:2::16/64"}, addresses(r), "addresses")
	for _, ip := range r.IPs {
		if ip.Interface == nil || r.Interfaces[*ip.Interface].Name != "net1" || r.Interfaces[*ip.Interface].Sandbox == "" {
			t.Errorf("%s is of no interface of the pod: %+v", ip.Address.String(), r.Interfaces)
		}
	}
	inPod(t, first, func(in *link.Handle, l link.Link) error {
		if !l.Up || l.Kind != "macvlan" {
			t.Errorf("interface %+v", l)
		}
		router := netip.MustParseAddr("10.0.2.1")
		for _, want := range []routing.Route{
			{Dst: netip.MustParsePrefix("10.0.0.0/16"), Gateway: router}, {Dst: netip.MustParsePrefix("100.64.0.0/16"), Gateway: router},
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: router, Priority: 900},
			{Dst: netip.MustParsePrefix("10.77.0.0/16"), Gateway: netip.MustParseAddr("10.0.2.9")},
		} {
			if ok, err := in.HasRoute(l.Index, want); !ok || err != nil {
				t.Errorf("route %+v: %v, %v", want, ok, err)
			}
		}
		have, err := in.Addresses(l.Index)
		for _, p := range []string{"10.0.2.16/24", "fd00:2::16/64"} {
			if !slices.Contains(have, netip.MustParsePrefix(p)) {
				t.Errorf("%s is not on the interface: %v", p, have)
			}
		}
		return err
	})
	e.succeeds("CHECK", withPrev(t, first, r))

	e.add(second)
	e.refused("ADD", third, 11, "all 2 ipv4 addresses", "2 leased, 0 cooling down", "assign more")
	equal(t, []string{"10.0.2.16=leased", "10.0.2.17=leased", "fd00:2::16=leased", "fd00:2::17=leased"}, e.leases(), "leases")
	e.del(first)
	e.refused("ADD", third, 11, "1 leased, 1 cooling down; the next is free in")
	e.refused("CHECK", withPrev(t, first, r), 3)
	must(t, nstest.DeleteNetns(second.Netns)) // DEL without a netns
	e.del(second)
	if held := e.held(); held != nil {
		t.Errorf("held after all DELs: %v", held)
	}
	e.unchanged(before, "after all DELs")

	ipam["coolDown"] = 0
	must(t, os.RemoveAll(e.file("leases")))
	first = e.pod(conf)
	r = e.add(first)
	must(t, os.RemoveAll(e.file("leases")))
	e.refused("CHECK", withPrev(t, first, r), 104, "10.0.2.16 is no longer leased")
	e.del(first)
}

// TestLeaseEveryStep fails and kills ADD and DEL at each step: no pod that is gone keeps
// an address.
func TestLeaseEveryStep(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{"coolDown": 0}, "10.0.2.15/24", "10.0.2.16/24")
	before := e.snapshot()
	steps := e.stepsOfADD(conf)
	if diff := cmp.Diff([]string{"intent", "lease", "delegate", "sysctls", "address", "up", "complete"}, steps); diff != "" {
		t.Fatalf("steps of ADD (-want +got):\n%s", diff)
	}
	asBefore := func(what string) {
		t.Helper()
		if diff := cmp.Diff(before, e.snapshot()); diff != "" || e.held() != nil {
			t.Errorf("%s: held %v, the node (-before +after):\n%s", what, e.held(), diff)
		}
	}
	for i, name := range steps {
		args := e.pod(conf)
		e.fails(failing(i+1), "ADD", args, 999, "injected", name)
		asBefore("failed before " + name)
		if !e.kill("ADD", i+1, args) {
			t.Fatalf("ADD ended before step %s", name)
		}
		if i%2 == 0 {
			e.add(args)
		}
		e.del(args)
		asBefore("killed before " + name)
	}
	for n := 1; ; n++ {
		args := e.pod(conf)
		e.add(args)
		more := e.kill("DEL", n, args)
		e.del(args)
		asBefore(fmt.Sprintf("DEL killed before step %d", n))
		if !more {
			break
		}
	}
}

func TestLeaseInParallel(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24")
	e.inv.Devices[len(e.inv.Devices)-1].Prefixes = prefixes("10.0.2.32/28")
	e.writeInventory()
	binary, err := nstest.Binary("multi-eni")
	must(t, err)
	var pods []*skel.CmdArgs
	for range 24 {
		pods = append(pods, e.pod(conf))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]string{}
	for _, args := range pods {
		wg.Go(func() {
			r, code, msg := runBinary(t, binary, "ADD", args)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case code == 0 && got[r.IPs[0].Address.String()] == "":
				got[r.IPs[0].Address.String()] = args.ContainerID
			case code != 11 || !strings.Contains(msg, "all 16 ipv4 addresses"):
				t.Errorf("%s: %v, code %d: %s", args.ContainerID, r, code, msg)
			}
		})
	}
	wg.Wait()
	if len(got) != 16 {
		t.Errorf("%d pods have an address: %v", len(got), got)
	}
	for a := range got {
		if !netip.MustParsePrefix("10.0.2.32/28").Contains(netip.MustParsePrefix(a).Addr()) {
			t.Errorf("%s is not of the prefix", a)
		}
	}
	for _, args := range pods {
		e.del(args)
	}
	if held := e.held(); held != nil {
		t.Errorf("held after all DELs: %v", held)
	}
}

func TestLeaseRefusals(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	ipam := map[string]any{}
	conf := e.sharing(ipam, "10.0.2.15/24")
	before := e.snapshot()
	e.refused("ADD", e.pod(conf), 11, "has no ipv4 address for pods that share it", "assign secondary addresses or a prefix")
	d := &e.inv.Devices[len(e.inv.Devices)-1]
	d.Addresses = append(d.Addresses, netip.MustParsePrefix("10.0.2.16/24"))
	e.writeInventory()
	asked := e.pod(conf)
	asked.Args += ";IP=10.0.2.15"
	e.refused("ADD", asked, 102, "10.0.2.15 was requested", "10.0.2.16")
	e.unchanged(before, "after refusals")
	have := e.pod(conf)
	have.Args += ";IP=10.0.2.16"
	e.add(have)
	e.refused("ADD", withIP(e.pod(conf), "10.0.2.16"), 101, "10.0.2.16 is held by pod shop/pod-")
	e.del(have)
	e.refused("ADD", withIP(e.pod(conf), "10.0.2.16"), 11, "released recently")

	e.unchanged(before, "after all DELs")
	d.VPCCIDRs = nil
	ipam["routes"] = []any{map[string]any{"dst": "vpc"}}
	ipam["coolDown"] = 0
	must(t, os.RemoveAll(e.file("leases")))
	e.writeInventory()
	e.refused("ADD", e.pod(conf), 102, "ipam.routes", "vpc", "one route for each network")
	if held := e.held(); held != nil {
		t.Errorf("held after a refusal: %v", held)
	}
}

func withIP(args *skel.CmdArgs, ip string) *skel.CmdArgs {
	args.Args += ";IP=" + ip
	return args
}

// TestENIIPAMWithHostDevice: a delegate that owns the device gets the primary address, and
// no lease.
func TestENIIPAMWithHostDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.inv.Devices[0].Addresses = prefixes("10.0.2.15/24", "10.0.2.16/24")
	e.writeInventory()
	e.path = copyBinaries(t, e, "host-device")
	before := e.snapshot()
	args := e.pod(map[string]any{
		"select": map[string]any{"nodeENI": "a"}, "delegate": map[string]any{"type": "host-device", "deviceField": "device"},
		"ipam": map[string]any{"type": "eni-ipam", "dataDir": e.file("leases"), "routes": []any{map[string]any{"dst": "10.9.0.0/16"}}},
	})
	r := e.add(args)
	if got := addresses(r); !slices.Equal(got, []string{"10.0.2.15/24"}) || r.IPs[0].Interface == nil {
		t.Errorf("addresses %v of %+v", got, r)
	}
	inPod(t, args, func(in *link.Handle, l link.Link) error {
		ok, err := in.HasRoute(l.Index, routing.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.0.2.1")})
		if !ok || !l.Up {
			t.Errorf("interface %+v, route there: %v", l, ok)
		}
		return err
	})
	e.succeeds("CHECK", withPrev(t, args, r))
	e.del(args)
	e.unchanged(before, "after DEL")
	if _, err := os.Stat(e.file("leases")); err == nil {
		t.Error("an exclusive pod has made a lease")
	}
}

func TestLeasePolicy(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24")
	p := &attach.Plugin{PolicyPath: e.policyFile(map[string]any{"leaseDir": e.file("fixed")})}
	bare := map[string]any{"dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil, "select": map[string]any{"nodeENI": "shared"},
		"delegate": map[string]any{"type": "macvlan"}}
	bare["ipam"] = map[string]any{"type": "eni-ipam", "dataDir": e.file("leases")}
	e.fails(p, "ADD", e.pod(bare), 105, "ipam.dataDir", "policy.json")
	bare["ipam"] = map[string]any{"type": "eni-ipam"}
	args := e.pod(bare)
	e.runs(p, "ADD", args)
	if enis, err := leases.Dir(e.file("fixed")).ENIs(e.inv.BootID); err != nil || len(enis) != 1 {
		t.Errorf("leases in the policy's folder: %v, %v", enis, err)
	}
	e.runs(p, "DEL", args)

	plain := e.pod(nil)
	plain.StdinData = fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"plain","type":"macvlan","master":"ens12","ipam":{"type":"eni-ipam","dataDir":%q}}`,
		e.file("leases"))
	wantCode(t, p.IPAMFuncs(context.Background(), &strings.Builder{}).Add(plain), 105, "ipam.dataDir")
	plain.StdinData = []byte(`{"cniVersion":"1.1.0","name":"plain","type":"macvlan","master":"ens12","ipam":{"type":"eni-ipam"}}`)
	e.inv.Devices[len(e.inv.Devices)-1].AllowedNamespaces = []string{"bank"}
	e.writeInventory()
	wantCode(t, p.IPAMFuncs(context.Background(), &strings.Builder{}).Add(plain), 105, "K8S_POD_NAMESPACE", "bank")
}

// TestRetiring: no pod gets an address that the daemon is returning, even if the inventory
// lists it.
func TestRetiring(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24")
	e.inv.Devices[0].Addresses = prefixes("10.0.2.25/24", "10.0.2.26/24", "10.0.2.27/24")
	e.writeInventory()
	retire := func(d nodestate.Device, address string) {
		t.Helper()
		l, err := leases.Dir(e.file("leases")).Lock(t.Context(), e.inv.BootID, d.ENIID)
		must(t, err)
		defer l.Close()
		l.Retiring = []netip.Prefix{netip.MustParsePrefix(address + "/32")}
		must(t, l.Save())
	}
	retire(e.inv.Devices[len(e.inv.Devices)-1], "10.0.2.16")
	retire(e.inv.Devices[0], "10.0.2.26")
	if got := addresses(e.add(e.pod(conf))); !slices.Equal(got, []string{"10.0.2.17/24"}) {
		t.Errorf("shared: %v", got)
	}
	e.refused("ADD", withIP(e.pod(conf), "10.0.2.16"), 11, "10.0.2.16 is being returned")
	ipam := map[string]any{"type": "eni-ipam", "dataDir": e.file("leases"), "addresses": "all"}
	alone := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": ipam})
	if got := addresses(e.add(alone)); !slices.Equal(got, []string{"10.0.2.25/24", "10.0.2.27/24"}) {
		t.Errorf("all: %v", got)
	}
	e.del(alone)
	e.refused("ADD", withIP(e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": ipam}), "10.0.2.26"), 102, "10.0.2.26 was requested")
}
