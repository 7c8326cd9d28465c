package attach_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestStandalone runs the eni-ipam binary below the reference plugins, like its users.
func TestStandalone(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24")
	shared := e.inv.Devices[len(e.inv.Devices)-1]
	e.inv.Devices[0].Addresses = prefixes("10.0.2.25/24", "10.0.2.26/24")
	e.writeInventory()
	own, err := nstest.Binary("eni-ipam")
	must(t, err)
	e.path = copyBinaries(t, e, "macvlan", "host-device") + ":" + filepath.Dir(own)
	ipam := map[string]any{"type": "eni-ipam", "dataDir": e.file("leases"), "inventory": e.file("inventory.json"), "coolDown": 0}
	conf := func(more map[string]any) []byte {
		all := map[string]any{"cniVersion": "1.1.0", "name": "plain", "ipam": ipam}
		for k, v := range more {
			all[k] = v
		}
		data, err := json.Marshal(all)
		must(t, err)
		return data
	}
	macvlan := map[string]any{"type": "macvlan", "master": "ens12"}
	pod := func(more map[string]any) *skel.CmdArgs {
		args := e.pod(nil)
		args.StdinData = conf(more)
		return args
	}
	first, second, third := pod(macvlan), pod(macvlan), pod(macvlan)
	r, code, msg := runBinary(t, e.file("bin", "macvlan"), "ADD", first)
	if code != 0 || !slices.Equal(addresses(r), []string{"10.0.2.16/24"}) || r.IPs[0].Gateway.String() != "10.0.2.1" {
		t.Fatalf("ADD: %v, code %d: %s", r, code, msg)
	}
	if _, code, msg := runBinary(t, e.file("bin", "macvlan"), "CHECK", withPrev(t, first, r)); code != 0 {
		t.Errorf("CHECK: code %d: %s", code, msg)
	}
	if r, code, msg := runBinary(t, e.file("bin", "macvlan"), "ADD", second); code != 0 || !slices.Equal(addresses(r), []string{"10.0.2.17/24"}) {
		t.Errorf("second ADD: %v, code %d: %s", r, code, msg)
	}
	if _, code, msg := runBinary(t, e.file("bin", "macvlan"), "ADD", third); code != 11 || !strings.Contains(msg, "all 2 ipv4 addresses") {
		t.Errorf("third ADD: code %d: %s", code, msg)
	}
	if _, code, msg := runBinary(t, own, "STATUS", first); code != 50 || !strings.Contains(msg, "all 2 ipv4 addresses") {
		t.Errorf("STATUS of a pool that is used up: code %d: %s", code, msg)
	}
	for range 2 {
		if _, code, msg := runBinary(t, e.file("bin", "macvlan"), "DEL", first); code != 0 {
			t.Errorf("DEL: code %d: %s", code, msg)
		}
	}
	must(t, nstest.DeleteNetns(second.Netns))
	gc := *second
	gc.StdinData = conf(map[string]any{"type": "macvlan", "master": "ens12", "cni.dev/valid-attachments": []any{}})
	if _, code, msg := runBinary(t, own, "GC", &gc); code != 0 {
		t.Errorf("GC: code %d: %s", code, msg)
	}
	if held := e.held(); held != nil {
		t.Errorf("held: %v", held)
	}

	// host-device owns the ENI: it gets the primary address by the PCI address.
	// ipam.select names an ENI that nothing else names.
	whole := pod(map[string]any{"type": "host-device", "device": "eth1", "ipam": map[string]any{
		"type": "eni-ipam", "dataDir": ipam["dataDir"], "inventory": ipam["inventory"],
	}})
	if r, code, msg := runBinary(t, e.file("bin", "host-device"), "ADD", whole); code != 0 || !slices.Equal(addresses(r), []string{"10.0.2.25/24"}) {
		t.Errorf("host-device: %v, code %d: %s", r, code, msg)
	}
	if _, code, msg := runBinary(t, e.file("bin", "host-device"), "DEL", whole); code != 0 {
		t.Errorf("host-device: DEL: code %d: %s", code, msg)
	}
	ipam["select"] = map[string]any{"nodeENI": shared.NodeENI}
	if r, code, msg := runBinary(t, own, "ADD", pod(map[string]any{"type": "something"})); code != 0 || !slices.Equal(addresses(r), []string{"10.0.2.16/24"}) {
		t.Errorf("select: %v, code %d: %s", r, code, msg)
	}
	e.standaloneAgain(own, conf)
	delete(ipam, "select")
	refusedStandalone(t, own, pod)
}

func refusedStandalone(t *testing.T, own string, pod func(map[string]any) *skel.CmdArgs) {
	t.Helper()
	for name, tt := range map[string]struct {
		conf map[string]any
		code uint
		want string
	}{
		"no ENI":     {map[string]any{"type": "bridge"}, 7, "ipam.select: names no ENI"},
		"no link":    {map[string]any{"type": "macvlan", "master": "eth9"}, 100, "eth9 is not in the host"},
		"not an ENI": {map[string]any{"type": "macvlan", "master": "lo"}, 100, "lo has no MAC address"},
		"vlan":       {map[string]any{"type": "vlan", "master": "ens12"}, 7, "inside a VLAN"},
	} {
		if _, code, msg := runBinary(t, own, "ADD", pod(tt.conf)); code != tt.code || !strings.Contains(msg, tt.want) {
			t.Errorf("%s: code %d: %s", name, code, msg)
		}
	}
}

// standaloneAgain: a lease belongs to a container and an interface, and each ENI has its
// own lock. The address .16 is leased already.
func (e *env) standaloneAgain(own string, conf func(map[string]any) []byte) {
	t := e.t
	t.Helper()
	args := e.pod(nil)
	args.StdinData = conf(map[string]any{"type": "something"})
	gives := func(verb, ifname, want string) {
		t.Helper()
		a := *args
		a.IfName = ifname
		r, code, msg := runBinary(t, own, verb, &a)
		var got string
		if r != nil {
			got = strings.Join(addresses(r), " ")
		}
		if code != 0 || got != want {
			t.Errorf("%s of %s: %q, code %d: %s; want %q", verb, ifname, got, code, msg, want)
		}
	}
	other, err := leases.Dir(e.file("leases")).Lock(t.Context(), e.inv.BootID, e.inv.Devices[0].ENIID)
	must(t, err)
	defer other.Close() // an ADD that waited for it would fail
	gives("ADD", "net1", "10.0.2.17/24")
	gives("ADD", "net1", "10.0.2.17/24")
	second := *args
	second.IfName = "net2"
	if _, code, msg := runBinary(t, own, "ADD", &second); code != 11 || !strings.Contains(msg, "2 leased") {
		t.Errorf("another interface of the container: code %d: %s", code, msg)
	}
	gives("DEL", "net2", "")
	gives("ADD", "net1", "10.0.2.17/24")
	gives("DEL", "net1", "")
	gives("ADD", "net2", "10.0.2.17/24")
	gives("DEL", "net2", "")
}
