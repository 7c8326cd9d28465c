package attach_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestStatus: STATUS fails with 50 and the reason if ADD fails for every pod, but not if
// it fails for one pod or for the moment.
func TestStatus(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", MAC: "02:00:00:00:00:0b", NoLink: true}
	efa := nstest.ENI{PCI: "0000:00:0d.0", MAC: "02:00:00:00:00:0d", Device: "0xefa1", NoLink: true}
	e := newEnv(t, vfio, efa)
	add := func(r nodestate.Device, change func(*nodestate.Device)) {
		change(&r)
		e.inv.Devices = append(e.inv.Devices, r)
	}
	add(row(vfio, "dpdk"), func(r *nodestate.Device) { r.InterfaceName, r.Driver = "", "vfio-pci" })
	add(row(efa, "efa"), func(r *nodestate.Device) { r.InterfaceName = "" })
	add(row(eniB, "gone"), func(r *nodestate.Device) { r.PCIAddress, r.ENIID = "0000:00:1e.0", "eni-0000001e" })
	add(nodestate.Device{}, func(r *nodestate.Device) { r.NodeENI, r.Phase = "pending", nodestate.PhasePending })
	add(row(eniB, "draining"), func(r *nodestate.Device) { r.Phase = nodestate.PhaseDraining })
	e.inv.Devices[1].ResourceName = "intel.com/b"
	e.inv.Devices[1].AllowedNamespaces = []string{"core"}
	e.inv.Devices[0].Addresses = nil
	e.writeInventory()
	sel := func(nodeENI string, more ...map[string]any) map[string]any {
		conf := map[string]any{"select": map[string]any{"nodeENI": nodeENI}}
		for _, m := range more {
			maps.Copy(conf, m)
		}
		return conf
	}
	delegate := func(typ string) map[string]any { return map[string]any{"delegate": map[string]any{"type": typ}} }
	ipam := map[string]any{"ipam": map[string]any{"type": "eni-ipam", "dataDir": e.file("leases")}}
	expect := func(what string, conf map[string]any, why ...string) {
		t.Helper()
		args := &skel.CmdArgs{Path: e.path, StdinData: e.conf(conf)}
		_, err := run(&attach.Plugin{}, "STATUS", args)
		if len(why) == 0 {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		if err == nil {
			t.Errorf("%s: STATUS succeeds; want %q", what, why)
			return
		}
		wantCode(t, err, 50, why...)
	}
	expect("a device", sel("a", map[string]any{"ipam": e.hostLocal()}))
	expect("a device that only the runtime names", map[string]any{})
	expect("a device that the kubelet allocates, of a NodeENI for other namespaces", sel("b"))
	expect("a resource", map[string]any{"select": map[string]any{"resourceName": "intel.com/b"}})
	expect("a userspace device", sel("dpdk"))
	expect("no such NodeENI", sel("nobody"), "no device of this node matches select nodeENI=nobody")
	expect("a resource that no device has", map[string]any{"select": map[string]any{"resourceName": "intel.com/x"}}, "intel.com/x")
	expect("pending", sel("pending"), "not ready yet")
	expect("draining", sel("draining"), "is draining")
	expect("unplugged", sel("gone"), "no such PCI function")
	expect("EFA", sel("efa"), "Elastic Fabric Adapter")
	expect("no VF", sel("a", delegate("sriov")), "no physfn")
	expect("macvlan on ena", sel("a", delegate("macvlan")), "the VPC drops its packets")
	expect("sharing a userspace device", sel("dpdk", delegate("ipvlan")), "needs a kernel interface")
	expect("no address yet", sel("a", ipam), "not known yet")
	expect("a faulty netconf", sel("a", map[string]any{"mtu": 1, "bogus": true}), "mtu", "bogus")
	expect("a version that nobody knows", sel("a", map[string]any{"cniVersion": "9.9"}), "9.9")
	expect("a missing plugin", sel("a", map[string]any{"ipam": map[string]any{"type": "nosuch"}}), "nosuch", "install it")
	expect("a missing plugin, before there was a STATUS", sel("a", map[string]any{"cniVersion": "1.0.0", "ipam": map[string]any{"type": "nosuch"}}), "nosuch")
	expect("before there was a STATUS", sel("a", map[string]any{"cniVersion": "1.0.0", "ipam": e.hostLocal()}))

	args := e.pod(e.selectA())
	e.add(args)
	expect("a device that a pod has", sel("a"))
	e.del(args)
	e.status(t)

	must(t, os.Remove(e.file("inventory.json")))
	expect("no inventory", sel("a"), "inventory.json")
	expect("none needed", map[string]any{"deviceID": eniA.PCI})
}

func (e *env) status(t *testing.T) {
	t.Helper()
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24")
	shared := func() *skel.CmdArgs { return &skel.CmdArgs{Path: e.path, StdinData: e.conf(conf)} }
	e.succeeds("STATUS", shared())
	holder := e.pod(conf)
	e.add(holder)
	e.refused("STATUS", shared(), 50, "all 1 ipv4 addresses")
	must(t, nstest.DeleteNetns(holder.Netns)) // a dead pod's address is free, or will be
	e.del(holder)

	bare := map[string]any{"dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil}
	maps.Copy(bare, conf)
	bare["ipam"] = map[string]any{"type": "eni-ipam"}
	for _, tt := range []struct {
		delegates, ipam []string
		why             string
	}{
		{[]string{"macvlan"}, []string{"eni-ipam"}, ""},
		{[]string{"ipvlan"}, []string{"eni-ipam"}, "delegate.type"},
		{[]string{"macvlan"}, nil, "ipam.type"},
	} {
		policy, err := json.Marshal(map[string]any{
			"schemaVersion": 1, "binDir": e.path, "delegates": tt.delegates, "ipam": tt.ipam, "dataDir": e.file("records"), "inventory": e.file("inventory.json"),
			"sysfs": e.node.Sysfs, "logFile": e.file("log"), "leaseDir": e.file("other-leases"),
		})
		must(t, err)
		must(t, os.WriteFile(e.file("policy.json"), policy, 0o644))
		p := &attach.Plugin{PolicyPath: e.file("policy.json")}
		_, err = run(p, "STATUS", &skel.CmdArgs{StdinData: e.conf(bare)})
		plain := map[string]any{"type": "macvlan", "master": "eth9"}
		maps.Copy(plain, bare)
		alone := p.IPAMFuncs(context.Background(), &strings.Builder{}).Status(&skel.CmdArgs{StdinData: e.conf(plain)})
		if tt.why == "" {
			must(t, err)
		} else {
			wantCode(t, err, 50, "policy forbids "+tt.why)
		}
		if tt.why == "ipam.type" {
			wantCode(t, alone, 50, "policy forbids "+tt.why)
		} else {
			must(t, alone)
		}
	}
	must(t, os.WriteFile(e.file("policy.json"), []byte("{"), 0o644))
	e.fails(&attach.Plugin{PolicyPath: e.file("policy.json")}, "STATUS", shared(), 50, "policy cannot be used")
}
