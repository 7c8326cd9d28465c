package attach_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func TestRequestedMAC(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	shared := e.shared()
	e.path = copyBinaries(t, e, "macvlan", "host-device", "host-local")
	before := e.snapshot()
	hostDevice := map[string]any{"select": map[string]any{"nodeENI": "a"}, "delegate": map[string]any{"type": "host-device", "deviceField": "device"}}
	passthru := map[string]any{"select": map[string]any{"nodeENI": "a"}, "delegate": map[string]any{"type": "macvlan", "mode": "passthru"}}
	for name, tt := range map[string]struct {
		conf  map[string]any
		mac   string
		words []string // of the refusal; nil where the MAC is to be the pod's
	}{
		"exclusive, its own":      {e.selectA(), strings.ToUpper(eniA.MAC), nil},
		"exclusive, another":      {e.selectA(), foreignMAC, []string{foreignMAC, eniA.PCI, eniA.MAC, "the VPC delivers to no other", "remove the request"}},
		"host-device, its own":    {hostDevice, eniA.MAC, nil},
		"host-device, another":    {hostDevice, foreignMAC, []string{foreignMAC, eniA.MAC}},
		"macvlan on another NIC":  {shared, foreignMAC, nil},
		"macvlan passthru on ena": {passthru, foreignMAC, []string{foreignMAC, "the VPC delivers to no other"}},
	} {
		for place, key := range map[string]keyOfNetconf{
			"runtimeConfig": {"mac", "runtimeConfig", tt.mac}, "args": {"mac", "args.cni", tt.mac}, "CNI_ARGS": {"MAC", "CNI_ARGS", tt.mac},
		} {
			args := e.pod(tt.conf)
			conf, env := way{conf: tt.conf}.with(key, args.Args)
			args.StdinData, args.Args = e.conf(conf), env
			if tt.words != nil {
				e.refused("ADD", args, 102, tt.words...)
				e.unchanged(before, name+" by "+place)
				continue
			}
			r := e.add(args)
			if links := e.podLinks(args); !strings.EqualFold(links[0].MAC.String(), tt.mac) || !strings.EqualFold(r.Interfaces[0].Mac, tt.mac) {
				t.Errorf("%s by %s: the pod has %+v, the result %+v", name, place, links, r.Interfaces)
			}
			if _, err := run(&attach.Plugin{}, "CHECK", withPrev(t, args, r)); err != nil {
				t.Errorf("%s by %s: CHECK: %v", name, place, err)
			}
			e.del(args)
			e.unchanged(before, name+" by "+place)
		}
	}
	args := e.pod(shared)
	conf, env := way{conf: shared}.with(keyOfNetconf{"mac", "runtimeConfig", foreignMAC}, args.Args+";MAC="+eniA.MAC)
	args.StdinData, args.Args = e.conf(conf), env
	e.refused("ADD", args, 4, "CNI_ARGS", eniA.MAC, foreignMAC, "must be the same")

	// An unknown delegate may give it or not; the kernel shows.
	other := map[string]any{"select": shared["select"], "delegate": map[string]any{"type": "other", "deviceField": "device"}}
	args = e.pod(other)
	conf, _ = way{conf: other}.with(keyOfNetconf{"mac", "runtimeConfig", foreignMAC}, args.Args)
	args.StdinData = e.conf(conf)
	giving := &likeness{Exec: fake("none", nil).Exec, hostDevice: e.file("bin", "host-device")}
	e.fails(&attach.Plugin{Exec: giving}, "ADD", args, 102, foreignMAC, "delegate other gave")
	e.unchanged(before, "a delegate that gives another MAC")
}

// TestMTUBehindHostDevice: multi-eni sets the MTU, for which host-device has no key, and
// undoes it wherever ADD fails or dies.
func TestMTUBehindHostDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	conf := e.selectA()
	conf["delegate"], conf["mtu"] = map[string]any{"type": "host-device", "deviceField": "device"}, 1400
	conf["ipam"] = map[string]any{"type": "host-local", "dataDir": e.file("ipam"), "subnet": "10.0.2.0/24"} // IPv6 would wait for DAD
	var steps []string
	args := e.pod(conf)
	out, err := run(&attach.Plugin{Before: func(s string) error { steps = append(steps, s); return nil }}, "ADD", args)
	must(t, err)
	if r := parseResult(t, out); r.Interfaces[0].Mtu != 1400 || e.podLinks(args)[0].MTU != 1400 || !slices.Contains(steps, "mtu") {
		t.Errorf("steps %q, result %+v, the pod has %+v; want MTU 1400", steps, r.Interfaces[0], e.podLinks(args)[0])
	}
	e.del(args)
	e.unchanged(before, "after DEL")
	for i, name := range steps {
		args := e.pod(conf)
		e.fails(failing(i+1), "ADD", args, 999, "injected")
		e.unchanged(before, "failed before "+name)
		if !e.kill("ADD", i+1, args) {
			t.Fatalf("ADD has no step %d", i+1)
		}
		e.del(args)
		e.unchanged(before, "killed before "+name)
	}
}

// TestRequestedAddress: ADD fails if an IPAM plugin does not give the requested address,
// and releases the given one.
func TestRequestedAddress(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.path = e.script("stubborn", `[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.2.9/24"}]}'; exit 0`)
	before := e.snapshot()
	conf := map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "stubborn"},
		"runtimeConfig": map[string]any{"ips": []string{"10.0.2.8/24"}}}
	args := e.pod(conf)
	e.refused("ADD", args, 102, "10.0.2.8 was requested", "10.0.2.9/24")
	e.unchanged(before, "an address that was not given")
	conf["runtimeConfig"] = map[string]any{"ips": []string{"10.0.2.9"}}
	args = e.pod(conf)
	e.add(args)
	e.del(args)
	args.Args += ";IP=x"
	e.refused("ADD", args, 4, "CNI_ARGS: IP", `"x"`)
}
