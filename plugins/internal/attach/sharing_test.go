package attach_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestLeaseIsAnnounced: neighbours learn at once that a new pod has the address of an
// ended one.
func TestLeaseIsAnnounced(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{"coolDown": 0, "families": []string{"ipv4", "ipv6"}}, "10.0.2.15/24", "10.0.2.16/24", "fd00:2::15/64", "fd00:2::16/64")
	must(t, e.node.AddPeerAddress("10.0.2.1/24"))
	must(t, e.node.AddPeerAddress("fd00:2::1/64"))
	h := hostLinks(t)
	master, err := h.ByName("ens12")
	must(t, err)
	must(t, h.SetUp(master.Index))
	e.path = copyBinaries(t, e, "macvlan")
	addrs := map[string]string{"10.0.2.16": "10.0.2.1", "fd00:2::16": "fd00:2::1"}
	for i := range 3 {
		args := e.pod(conf)
		r := e.add(args)
		mac := r.Interfaces[0].Mac
		for own, peer := range addrs {
			for begin := time.Now(); i > 0 && e.neighbour(own) != mac; <-time.After(10 * time.Millisecond) {
				if time.Since(begin) > 5*time.Second {
					t.Fatalf("the peer knows %s as %q, not as %s", own, e.neighbour(own), mac)
				}
			}
			must(t, nstest.Reach(t.Context(), args.Netns, netip.MustParseAddr(own), e.node.VPC, netip.MustParseAddr(peer)))
			if got := e.neighbour(own); got != mac {
				t.Errorf("the peer knows %s as %q, want %q", own, got, mac)
			}
		}
		e.del(args)
	}
}

// TestSharersTakeSideBySide: pods that share a device do not wait for each other. They
// wait for a holder of the exclusive lock, which a pod takes to clean up after a dead one.
func TestSharersTakeSideBySide(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.shared()
	e.path = copyBinaries(t, e, "macvlan", "host-local")
	pci := e.inv.Devices[len(e.inv.Devices)-1].PCIAddress
	begins := func(args *skel.CmdArgs) (held <-chan struct{}, ended <-chan error) {
		c, end := make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := run(&attach.Plugin{Before: func(step string) error {
				if step == "intent" {
					close(c)
				}
				return nil
			}}, "ADD", args)
			end <- err
		}()
		return c, end
	}
	waits := func(when string, unlock func()) *skel.CmdArgs {
		args := e.pod(conf)
		held, ended := begins(args)
		select {
		case <-held:
			t.Errorf("%s: the ADD of a pod that shares the device has not waited", when)
		case err := <-ended:
			t.Fatalf("%s: %v", when, err)
		case <-time.After(200 * time.Millisecond):
		}
		unlock()
		must(t, <-ended)
		return args
	}

	unlock, err := e.records().ShareDevice(t.Context(), pci)
	must(t, err)
	first := e.pod(conf)
	e.add(first) // beside
	unlock()
	unlock, err = e.records().LockDevice(t.Context(), pci)
	must(t, err)
	second := waits("beside one who is alone", unlock)
	e.del(first)
	e.del(second)

	dead := e.pod(map[string]any{"select": map[string]any{"nodeENI": "shared"}})
	e.kill("ADD", 2, dead) // after its first step, the intent
	unlock, err = e.records().ShareDevice(t.Context(), pci)
	must(t, err)
	e.del(waits("with a dead pod's hold", unlock))
	if _, err := e.records().Lock(t.Context(), nodestate.AttachmentID{ContainerID: dead.ContainerID, IfName: dead.IfName}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead pod's record: %v; want it gone", err)
	}
}

func (e *env) neighbour(address string) (mac string) {
	e.t.Helper()
	must(e.t, e.node.InVPC(func() error {
		all, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range all {
			if n.IP.String() == address {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	}))
	return mac
}

func TestLeaseFromPrefixes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{"families": []string{"ipv4", "ipv6"}}, "10.0.2.15/24", "fd00:2::15/64")
	e.inv.Devices[len(e.inv.Devices)-1].Prefixes = prefixes("10.0.2.32/28", "fd00:2:0:0:1::/80")
	e.writeInventory()
	for _, want := range [][]string{{"10.0.2.32/24", "fd00:2:0:0:1::/64"}, {"10.0.2.33/24", "fd00:2::1:0:0:1/64"}} {
		args := e.pod(conf)
		r := e.add(args)
		if got := addresses(r); !slices.Equal(got, want) {
			t.Errorf("addresses %v, want %v", got, want)
		}
		inPod(t, args, func(in *link.Handle, l link.Link) error {
			have, err := in.Addresses(l.Index)
			for _, p := range want {
				if !slices.Contains(have, netip.MustParsePrefix(p)) {
					t.Errorf("%s is not on the interface: %v", p, have)
				}
			}
			for _, dst := range []string{"0.0.0.0/0", "10.0.0.0/16"} {
				if ok, herr := in.HasRoute(l.Index, routing.Route{Dst: netip.MustParsePrefix(dst), Gateway: netip.MustParseAddr("10.0.2.1")}); ok || herr != nil {
					t.Errorf("route to %s: %v, %v", dst, ok, herr)
				}
			}
			return err
		})
		e.succeeds("CHECK", withPrev(t, args, r))
		defer e.del(args)
	}
	e.refused("ADD", withIP(e.pod(conf), "fd00:2:0:0:1::1"), 101, "fd00:2::1:0:0:1 is held by pod shop/pod-")
	asked := e.pod(conf)
	var fields map[string]any
	must(t, json.Unmarshal(asked.StdinData, &fields))
	fields["runtimeConfig"] = map[string]any{"ips": []string{"10.0.2.40/24", "fd00:2:0:0:1:2:3:4"}}
	asked.StdinData, _ = json.Marshal(fields)
	if got := addresses(e.add(asked)); !slices.Equal(got, []string{"10.0.2.40/24", "fd00:2::1:2:3:4/64"}) {
		t.Errorf("runtimeConfig.ips: %v", got)
	}
	e.del(asked)
}

// TestAloneAfterSharing: an owner may request any address of its ENI, except one that a
// sharing pod has just released.
func TestAloneAfterSharing(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24")
	d := &e.inv.Devices[len(e.inv.Devices)-1]
	d.Prefixes = prefixes("10.0.2.32/28", "10.0.2.48/28")
	e.writeInventory()
	e.roundTrip(conf)
	l, err := leases.Dir(e.file("leases")).Lock(t.Context(), e.inv.BootID, d.ENIID)
	must(t, err)
	l.Retiring = prefixes("10.0.2.48/28")
	must(t, l.Save())
	l.Close()

	alone := func(which, ip string) *skel.CmdArgs {
		return withIP(e.pod(map[string]any{"select": map[string]any{"nodeENI": "shared"}, "ipam": map[string]any{"type": "eni-ipam", "dataDir": e.file("leases"),
			"addresses": which}}), ip)
	}
	gets := func(which, ip string, want ...string) {
		t.Helper()
		args := alone(which, ip)
		if got := addresses(e.add(args)); !slices.Equal(got, want) {
			t.Errorf("%s %s: %v, want %v", which, ip, got, want)
		}
		e.del(args)
	}
	gets("one", "", "10.0.2.15/24")
	gets("one", "10.0.2.40,10.0.2.17", "10.0.2.40/24", "10.0.2.17/24")
	e.refused("ADD", alone("one", "10.0.2.16"), 11, "10.0.2.16 was released recently and is free again in")
	e.refused("ADD", alone("all", ""), 11, "10.0.2.16 was released recently")
	e.refused("ADD", alone("one", "10.0.2.50"), 102, "10.0.2.50 was requested", "has only 10.0.2.15, 10.0.2.16, 10.0.2.17, 10.0.2.32/28;")
	must(t, os.RemoveAll(e.file("leases")))
	gets("all", "", "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24")
}

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
	e.fails(p, "ADD", alone, 101, "pod shop/pod-"+sharer.ContainerID, "10.0.2.16")
	must(t, nstest.DeleteNetns(sharer.Netns)) // a dead one holds nothing
	e.runs(p, "ADD", alone)
	wantCode(t, ipam("ADD", plain()), 101, "pod shop/pod-"+alone.ContainerID)
	must(t, ipam("DEL", sharer))
	e.runs(p, "DEL", alone)
	next := plain()
	must(t, ipam("ADD", next))
	must(t, ipam("DEL", next))
	e.runs(p, "ADD", alone)
	e.runs(p, "DEL", alone)
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
	e.roundTrip(map[string]any{"select": map[string]any{"nodeENI": "a"}, "deviceID": d.PCIAddress})
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
		e.runs(p, "ADD", first)
		if tt.says != "" {
			e.fails(p, "ADD", second, 102, "pod-"+first.ContainerID, tt.says)
			e.runs(p, "DEL", first) // and its choice goes with it
			e.runs(p, "ADD", second)
		} else {
			e.runs(p, "ADD", second)
			e.runs(p, "DEL", first)
		}
		e.runs(p, "DEL", second)
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
			e.runs(&attach.Plugin{Exec: fake("ipvlan", made)}, "DEL", args)
		}
	}
}
