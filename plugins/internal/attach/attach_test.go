package attach_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func TestExclusiveRoundTrip(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	conf := e.selectA()
	conf["mtu"] = 1400
	conf["routes"] = []any{map[string]any{"dst": "10.99.0.0/16", "gw": "10.0.2.1"}, map[string]any{"dst": "fd00:99::/64", "table": 100}}
	args := e.pod(conf)
	args.Args += ";K8S_POD_UID=u-1"
	r := e.add(args)
	records, _, err := e.records().List()
	must(t, err)
	if len(records) != 1 || records[0].PodUID != "u-1" || records[0].Pod != "shop/pod-"+args.ContainerID {
		t.Errorf("records = %+v; want one of the pod and its UID", records)
	}
	if len(r.Interfaces) != 1 || len(r.IPs) != 2 {
		t.Fatalf("result = %+v; want one interface and two addresses", r)
	}
	i := r.Interfaces[0]
	if i.Name != "net1" || i.Mac != eniA.MAC || i.Mtu != 1400 || i.Sandbox != args.Netns || i.PciID != eniA.PCI {
		t.Errorf("interface = %+v", i)
	}
	if got := e.podLinks(args); len(got) != 1 || got[0].Name != "net1" || !got[0].Up || got[0].MTU != 1400 {
		t.Errorf("links in the pod = %+v", got)
	}
	e.succeeds("CHECK", withPrev(t, args, r))
	e.del(args)
	e.unchanged(before, "after DEL")
	e.holdsNone(args)
}

func TestSelect(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	b := e.inv.Devices[1]
	tests := map[string]map[string]any{
		"nodeENI":                  {"select": map[string]any{"nodeENI": "b"}},
		"eniID":                    {"select": map[string]any{"eniID": b.ENIID}},
		"mac":                      {"select": map[string]any{"mac": b.MAC}},
		"pciAddress":               {"select": map[string]any{"pciAddress": b.PCIAddress}},
		"all":                      {"select": map[string]any{"nodeENI": "b", "eniID": b.ENIID, "mac": b.MAC, "subnetID": b.SubnetID, "pciAddress": b.PCIAddress}},
		"deviceID":                 {"deviceID": b.PCIAddress},
		"deviceID and pciBusID":    {"deviceID": b.PCIAddress, "pciBusID": b.PCIAddress, "runtimeConfig": map[string]any{"deviceID": b.PCIAddress}},
		"resourceName with device": {"select": map[string]any{"resourceName": "intel.com/sriov_b"}, "deviceID": b.PCIAddress},
		"deviceID, no inventory":   {"deviceID": b.PCIAddress, "inventory": "/nonexistent/inventory.json"},
	}
	for name, conf := range tests {
		e.inv.Devices[1].ResourceName = "" // with one, the kubelet says which device
		if conf["deviceID"] != nil {
			e.inv.Devices[1].ResourceName = "intel.com/sriov_b"
		}
		e.writeInventory()
		args := e.pod(conf)
		if r := e.add(args); r.Interfaces[0].Mac != eniB.MAC {
			t.Errorf("%s: got %s; want %s", name, r.Interfaces[0].Mac, eniB.MAC)
		}
		e.del(args)
	}
	e.inv.Devices[1].ResourceName = ""
	e.writeInventory()
	t.Run("subnetID of two devices takes the first free", func(t *testing.T) {
		var got []string
		var pods []*skel.CmdArgs
		for range 2 {
			args := e.pod(map[string]any{"select": map[string]any{"subnetID": "subnet-0000000a"}})
			got = append(got, e.add(args).Interfaces[0].PciID)
			pods = append(pods, args)
		}
		if want := []string{eniA.PCI, eniB.PCI}; !slices.Equal(got, want) {
			t.Errorf("devices in turn = %v; want %v", got, want)
		}
		e.refused("ADD", e.pod(map[string]any{"select": map[string]any{"subnetID": "subnet-0000000a"}}), 101, "pod shop/pod-")
		for _, args := range pods {
			e.del(args)
		}
	})
}

func TestRefusals(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	primary := nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: "02:00:00:00:00:00"}
	efa := nstest.ENI{PCI: "0000:00:0a.0", Name: "efa0", MAC: "02:00:00:00:00:0a", Device: "0xefa1"}
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", NoLink: true}
	e := newEnv(t, primary, efa, vfio)
	h, err := link.Open()
	must(t, err)
	l, err := h.ByName("eth0")
	must(t, err)
	must(t, h.SetUp(l.Index))
	must(t, h.EnsureRoute(l.Index, routing.Route{Dst: netip.MustParsePrefix("0.0.0.0/0")}))
	lying, pending, draining, gone := row(eniB, "lying"), row(eniB, "pending"), row(eniB, "draining"), row(eniB, "gone")
	lying.MAC, lying.SubnetID = "02:00:00:00:00:99", "subnet-0000000b"
	pending.Phase, pending.PCIAddress, pending.MAC = nodestate.PhasePending, "", ""
	draining.Phase = nodestate.PhaseDraining
	gone.PCIAddress = "0000:00:1f.0"
	e.inv.Devices = append(e.inv.Devices, lying, pending, draining, gone)
	e.writeInventory()
	sel := func(name string) map[string]any { return map[string]any{"select": map[string]any{"nodeENI": name}} }
	with := func(m map[string]any, key string, v any) map[string]any { m[key] = v; return m }

	e.refused("ADD", e.pod(sel("nosuch")), 100, "nodeENI=nosuch", "eni-", "NodeENI a")
	e.refused("ADD", e.pod(sel("pending")), 11, "not ready yet")
	e.refused("ADD", e.pod(sel("draining")), 100, "draining")
	e.refused("ADD", e.pod(sel("lying")), 104, "02:00:00:00:00:99", "does not match the inventory")
	e.refused("ADD", e.pod(sel("gone")), 104, "gone", "0000:00:1f.0")
	e.refused("ADD", e.pod(map[string]any{"deviceID": primary.PCI}), 102, "default route")
	e.refused("ADD", e.pod(map[string]any{"deviceID": efa.PCI}), 102, "Elastic Fabric Adapter")
	e.refused("ADD", e.pod(map[string]any{"select": map[string]any{"resourceName": "intel.com/x"}}), 103, "intel.com/x", "limits")
	e.refused("ADD", e.pod(with(sel("a"), "deviceID", eniB.PCI)), 100, "allocated "+eniB.PCI)
	e.refused("ADD", e.pod(with(sel("a"), "inventory", e.file("none.json"))), 11, "none.json", "multi-enid")
	e.refused("ADD", e.pod(with(sel("a"), "delegate", map[string]any{"type": "macvlan"})), 102, "macvlan", "ipvlan")
	e.refused("ADD", e.pod(with(sel("a"), "delegate", map[string]any{"type": "sriov"})), 102, "physfn")
	e.refused("ADD", e.pod(map[string]any{"deviceID": vfio.PCI, "delegate": map[string]any{"type": "ipvlan"}}), 102, "vfio-pci", "ipvlan")
	e.refused("ADD", e.pod(map[string]any{"deviceID": vfio.PCI, "ipam": map[string]any{"type": "missing"}}), 999, "missing", "install it")
	e.refused("ADD", e.pod(map[string]any{"select": map[string]any{"subnetID": "subnet-0000000a"}, "delegate": map[string]any{"type": "ipvlan"}}), 7,
		"several devices match", "select.eniID")
	e.refused("ADD", e.pod(with(sel("a"), "selct", 1)), 7, "selct", "select")

	e.refused("ADD", e.pod(with(sel("a"), "prevResult", map[string]any{"cniVersion": "1.1.0"})), 7, "prevResult", "put multi-eni first")

	args := e.pod(sel("a"))
	args.Netns = "/proc/self/ns/net"
	e.refused("ADD", args, 8, "host's own network namespace")
	args.Netns = "/nonexistent"
	e.refused("ADD", args, 8, "/nonexistent")
	args = e.pod(sel("a"))
	args.Args = "nonsense"
	e.refused("ADD", args, 4, "CNI_ARGS", "nonsense")
	args = e.pod(sel("a"))
	args.StdinData = []byte("{")
	e.refused("ADD", args, 6, "decode")

	t.Run("draining, but allocated by the kubelet", func(t *testing.T) {
		e.inv.Devices = []nodestate.Device{draining}
		e.writeInventory()
		e.roundTrip(with(sel("draining"), "deviceID", eniB.PCI))
	})
	t.Run("other boot", func(t *testing.T) {
		e.inv.BootID = "another"
		e.writeInventory()
		e.refused("ADD", e.pod(sel("draining")), 11, "earlier boot")
		e.refused("STATUS", e.pod(sel("draining")), 50, "earlier boot")
	})
	// The runtime calls DEL after each of them.
	e.del(e.pod(with(sel("a"), "selct", 1)))
	e.del(e.pod(map[string]any{"select": map[string]any{"nodeENI": 7}, "mtu": "big", "routes": "all", "delegate": 1, "name": ""}))
	args = e.pod(with(sel("a"), "logFile", "/nonexistent/log"))
	args.Args = "nonsense"
	e.del(args)
	if left, _, err := e.records().List(); err != nil || len(left) != 0 {
		t.Errorf("records left by refused ADDs: %+v, %v", left, err)
	}
}

func TestDescribesPendingRows(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.inv.Devices[0] = nodestate.Device{NodeENI: "a", Phase: nodestate.PhasePending}
	e.writeInventory()
	e.refused("ADD", e.pod(e.selectA()), 11, "a device whose ENI is not known yet (no PCI address yet, NodeENI a, pending)")
}

func TestHeld(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	first := e.pod(e.selectA())
	e.add(first)
	e.refused("ADD", e.pod(e.selectA()), 101, eniA.PCI, "pod shop/pod-c1", "container c1")
	e.refused("ADD", e.pod(map[string]any{"deviceID": eniA.PCI}), 101, "pod shop/pod-c1")
	e.refused("ADD", first, 999, "already has", "run DEL")
	again := *first
	again.IfName = "net2"
	e.refused("ADD", &again, 101, eniA.PCI, "held by this pod already, as interface net1")
	restarted := e.pod(e.selectA())
	restarted.Args = first.Args
	e.refused("ADD", restarted, 101, "this pod's earlier sandbox (container c1, interface net1)")
	e.del(first)
	e.roundTrip(e.selectA())
}

// TestEveryStep fails ADD before each of its steps, and kills it there. The node must be
// as before, at once or after DEL.
func TestEveryStep(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	conf := e.selectA()
	conf["mtu"] = 1400
	conf["routes"] = []any{map[string]any{"dst": "10.99.0.0/16"}}
	conf["runtimeConfig"] = map[string]any{"CNIDeviceInfoFile": e.file("devinfo", "a.json")}
	steps := e.stepsOfADD(conf)
	want := []string{"intent", "ipam", "move", "mtu", "sysctls", "address", "address", "up", "route", "deviceInfo", "complete"}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Fatalf("steps of ADD (-want +got):\n%s", diff)
	}
	asBefore := func(what string) {
		t.Helper()
		e.unchanged(before, what)
		if _, err := os.Stat(e.file("devinfo", "a.json")); err == nil {
			t.Errorf("%s: the device-info file is left", what)
		}
	}
	for i, name := range steps {
		args := e.pod(conf)
		e.fails(failing(i+1), "ADD", args, 999, "injected", name)
		asBefore("failed before " + name)
		e.del(args)

		if !e.kill("ADD", i+1, args) {
			t.Fatalf("ADD ended before step %s", name)
		}
		if i%2 == 0 { // the same ADD again clears the way itself
			e.add(args)
		}
		e.del(args)
		asBefore("killed before " + name)
	}
	t.Run("DEL", func(t *testing.T) {
		n := 1
		for ; ; n++ {
			args := e.pod(conf)
			e.add(args)
			more := e.kill("DEL", n, args)
			e.del(args)
			asBefore(fmt.Sprintf("DEL killed before step %d", n))
			if !more {
				break
			}
		}
		if n < 4 {
			t.Errorf("DEL has only %d steps", n-1)
		}
	})
	t.Run("killed ADD blocks nobody", func(t *testing.T) {
		dead := e.pod(conf)
		e.kill("ADD", 5, dead)
		e.roundTrip(conf)
		e.del(dead)
		asBefore("taken over")
	})
}

func TestParallel(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	const devices, pods = 16, 64
	var more []nstest.ENI
	for i := range devices {
		more = append(more, nstest.ENI{PCI: fmt.Sprintf("0000:01:%02x.0", i), Name: fmt.Sprintf("enp1s%d", i), MAC: fmt.Sprintf("02:00:00:00:01:%02x", i)})
	}
	e := newEnv(t, more...)
	e.inv.Devices = nil
	for _, m := range more {
		e.inv.Devices = append(e.inv.Devices, row(m, "pool"))
	}
	e.writeInventory()
	before := e.snapshot()
	var all []*skel.CmdArgs
	for range pods {
		all = append(all, e.pod(map[string]any{"select": map[string]any{"nodeENI": "pool"}, "ipam": e.hostLocal()}))
	}
	binary, err := nstest.Binary("multi-eni")
	must(t, err)
	var mu sync.Mutex
	var wg sync.WaitGroup
	macs, ips, winners := map[string]int{}, map[string]int{}, 0
	for _, args := range all {
		wg.Go(func() {
			r, code, msg := runBinary(t, binary, "ADD", args)
			mu.Lock()
			defer mu.Unlock()
			if r == nil {
				if code != 101 {
					t.Errorf("loser's code = %d (%s); want 101", code, msg)
				}
				return
			}
			winners++
			macs[r.Interfaces[0].Mac]++
			ips[r.IPs[0].Address.String()]++
		})
	}
	wg.Wait()
	if winners != devices || len(macs) != devices || len(ips) != devices {
		t.Errorf("%d winners with %d devices and %d addresses; want %d of each", winners, len(macs), len(ips), devices)
	}
	for _, args := range all {
		wg.Go(func() {
			if _, code, msg := runBinary(t, binary, "DEL", args); code != 0 {
				t.Errorf("DEL: %d %s", code, msg)
			}
		})
	}
	wg.Wait()
	e.unchanged(before, "after all")
}
