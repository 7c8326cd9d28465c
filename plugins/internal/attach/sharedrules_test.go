package attach_test

import (
	"encoding/json"
	"io"
	"maps"
	"os"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestAloneBesideLeases: an ENI with leases through other plugins than multi-eni has no
// owner, and an owned ENI no leases.
func TestAloneBesideLeases(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{"coolDown": 0}, "10.0.2.15/24", "10.0.2.16/24")
	p := &attach.Plugin{PolicyPath: e.policyFile(nil)}
	plain := func() *skel.CmdArgs {
		args := e.pod(nil)
		args.StdinData = []byte(`{"cniVersion":"1.1.0","name":"plain","type":"macvlan","master":"ens12","ipam":{"type":"eni-ipam","coolDown":0` +
			`,"select":{"nodeENI":"shared"}}}`)
		return args
	}
	ipam := func(verb string, args *skel.CmdArgs) error {
		f := p.IPAMFuncs(t.Context(), io.Discard)
		return map[string]func(*skel.CmdArgs) error{"ADD": f.Add, "DEL": f.Del}[verb](args)
	}
	alone := e.pod(map[string]any{"select": conf["select"], "dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil})

	sharer := plain()
	must(t, ipam("ADD", sharer))
	_, err := run(p, "ADD", alone)
	wantCode(t, err, 101, "pod shop/pod-"+sharer.ContainerID, "10.0.2.16")
	must(t, nstest.DeleteNetns(sharer.Netns)) // a dead one holds nothing
	_, err = run(p, "ADD", alone)
	must(t, err)
	err = ipam("ADD", plain())
	wantCode(t, err, 101, "pod shop/pod-"+alone.ContainerID)
	must(t, ipam("DEL", sharer))
	_, err = run(p, "DEL", alone)
	must(t, err)
	next := plain()
	must(t, ipam("ADD", next))
	must(t, ipam("DEL", next))
	_, err = run(p, "ADD", alone)
	must(t, err)
	_, err = run(p, "DEL", alone)
	must(t, err)
}

// TestAllocatedByTheKubelet: a device of the device plugin goes only to the pod to which
// the kubelet allocated it, however a netconf selects it.
func TestAllocatedByTheKubelet(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.inv.Devices[0].ResourceName = "intel.com/sriov_a"
	e.writeInventory()
	d := e.inv.Devices[0]
	for name, v := range map[string]any{"nodeENI": "a", "eniID": d.ENIID, "mac": d.MAC, "pciAddress": d.PCIAddress} {
		for way, conf := range map[string]map[string]any{
			"": {}, "ipvlan": {"delegate": map[string]any{"type": "ipvlan"}}, "host-device": {"delegate": map[string]any{"type": "host-device"}},
		} {
			conf["select"] = map[string]any{name: v}
			e.refused("ADD", e.pod(conf), 103, d.PCIAddress.String(), "intel.com/sriov_a", "limits", "k8s.v1.cni.cncf.io/resourceName")
			if t.Failed() {
				t.Fatal(name, way)
			}
		}
	}
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "deviceID": d.PCIAddress})
	e.add(args)
	e.del(args)
	other := e.pod(map[string]any{"select": map[string]any{"subnetID": d.SubnetID}}) // the device that is not allocated
	if r := e.add(other); r.Interfaces[0].PciID != eniB.PCI {
		t.Errorf("got %s, want %s", r.Interfaces[0].PciID, eniB.PCI)
	}
	e.del(other)
}

// TestOneModePerDevice: a pod cannot change a setting that the kernel keeps once per
// device. ADD refuses before the delegate would fail.
func TestOneModePerDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	plugins := fake("ipvlan", made)
	plugins.fake["macvlan"], plugins.fake["vlan"] = made, made
	p := &attach.Plugin{Exec: plugins}
	base := e.shared()
	pod := func(delegate map[string]any) *skel.CmdArgs {
		return e.pod(map[string]any{"select": base["select"], "delegate": delegate})
	}
	type m = map[string]any
	for _, tt := range []struct {
		first, second m
		says          string
	}{
		{m{"type": "ipvlan"}, m{"type": "ipvlan", "mode": "l2"}, ""},
		{m{"type": "ipvlan"}, m{"type": "ipvlan", "mode": "l3"}, "now l2;"},
		{m{"type": "ipvlan", "mode": "l3s"}, m{"type": "ipvlan"}, "now l3s;"},
		{m{"type": "ipvlan"}, m{"type": "macvlan"}, "ipvlan, not both"},
		{m{"type": "macvlan"}, m{"type": "ipvlan"}, "macvlan, not both"},
		{m{"type": "macvlan"}, m{"type": "macvlan", "mode": "private"}, ""},
		{m{"type": "macvlan"}, m{"type": "macvlan", "mode": "passthru"}, "needs the device alone"},
		{m{"type": "macvlan", "mode": "passthru"}, m{"type": "macvlan"}, "needs the device alone"},
		{m{"type": "ipvlan"}, m{"type": "vlan", "vlanId": 5}, ""},
		{m{"type": "vlan", "vlanId": 5}, m{"type": "vlan", "vlanId": 6}, ""},
		{m{"type": "vlan", "vlanId": 5}, m{"type": "vlan", "vlanId": 5}, "VLAN 5"},
	} {
		first, second := pod(tt.first), pod(tt.second)
		_, err := run(p, "ADD", first)
		must(t, err)
		_, err = run(p, "ADD", second)
		if tt.says == "" {
			must(t, err)
		} else {
			wantCode(t, err, 102, "pod-"+first.ContainerID, tt.says)
		}
		_, err = run(p, "DEL", first)
		must(t, err)
		if tt.says != "" {
			_, err = run(p, "ADD", second) // the first one's choice has gone with it
			must(t, err)
		}
		_, err = run(p, "DEL", second)
		must(t, err)
	}
}

func made(string) (string, error) {
	return `{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[]}`, nil
}

// TestFirstChoosesAlone: if pods with different modes start at once, one gets the device.
func TestFirstChoosesAlone(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	base := e.shared()
	type outcome struct {
		mode string
		err  error
	}
	for range 10 {
		var pods []*skel.CmdArgs
		ended := make(chan outcome)
		for i := range 6 {
			mode := []string{"l2", "l3"}[i%2]
			args := e.pod(map[string]any{"select": base["select"], "delegate": map[string]any{"type": "ipvlan", "mode": mode}})
			pods = append(pods, args)
			go func() {
				_, err := run(&attach.Plugin{Exec: fake("ipvlan", made)}, "ADD", args)
				ended <- outcome{mode, err}
			}()
		}
		got := map[string]int{}
		for range pods {
			if o := <-ended; o.err == nil {
				got[o.mode]++
			}
		}
		if len(got) != 1 {
			t.Errorf("modes that pods got at once: %v", got)
		}
		for _, args := range pods {
			_, err := run(&attach.Plugin{Exec: fake("ipvlan", made)}, "DEL", args)
			must(t, err)
		}
	}
}

func (e *env) policyFile(more map[string]any) string {
	e.t.Helper()
	policy := map[string]any{
		"schemaVersion": 1, "binDir": e.path, "delegates": []string{"macvlan", "host-device"}, "ipam": []string{"host-local", "eni-ipam"},
		"dataDir": e.file("records"), "leaseDir": e.file("leases"), "inventory": e.file("inventory.json"), "sysfs": e.node.Sysfs, "logFile": e.file("log"),
	}
	maps.Copy(policy, more)
	data, err := json.Marshal(policy)
	must(e.t, err)
	path := e.file("node-policy.json")
	must(e.t, os.WriteFile(path, data, 0o644))
	return path
}
