package attach_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const foreignMAC = "02:00:00:00:00:99"

// keyOfNetconf is a key with a value other than the default.
type keyOfNetconf struct {
	name string
	// in is the object with the key, such as ipam. "" is the netconf itself, and CNI_ARGS
	// the variable.
	in    string
	value any
}

// keysOfNetconf returns all keys of a netconf: those in the reference, and injected ones.
func keysOfNetconf(e *env) []keyOfNetconf {
	route := []any{map[string]any{"dst": "10.77.0.0/16", "gw": "10.0.2.77"}}
	return []keyOfNetconf{
		{"cniVersion", "", "0.4.0"}, {"name", "", "another"}, {"mtu", "", 1400}, {"routes", "", route},
		{"dns", "", map[string]any{"nameservers": []string{"10.0.0.2"}}},
		{"prevResult", "", map[string]any{"cniVersion": "1.1.0", "interfaces": []any{map[string]any{"name": "eth0", "sandbox": "/x"}}}},
		{"deviceID", "", eniB.PCI}, {"pciBusID", "", eniB.PCI}, {"select", "", map[string]any{"nodeENI": "none"}},
		{"delegate", "", map[string]any{"type": "vlan", "vlanId": 5}},
		{"ipam", "", map[string]any{"type": "static", "addresses": []any{map[string]any{"address": "10.0.2.66/24"}}}},
		{"dataDir", "", e.file("records2")}, {"inventory", "", e.file("none.json")}, {"sysfs", "", e.file("none")}, {"logFile", "", e.file("log2")},

		{"nodeENI", "select", "none"}, {"eniID", "select", "eni-0000000f"}, {"mac", "select", foreignMAC}, {"subnetID", "select", "subnet-0000000f"},
		{"pciAddress", "select", "0000:00:1f.0"}, {"resourceName", "select", "intel.com/x"},

		{"addresses", "ipam", "all"}, {"families", "ipam", []string{"ipv6"}}, {"routes", "ipam", route}, {"coolDown", "ipam", 3000},
		{"dataDir", "ipam", e.file("leases2")},

		{"deviceID", "runtimeConfig", eniB.PCI}, {"CNIDeviceInfoFile", "runtimeConfig", e.file("info.json")}, {"mac", "runtimeConfig", foreignMAC},
		{"ips", "runtimeConfig", []string{"10.0.2.17/24"}}, {"ipRanges", "runtimeConfig", []any{[]any{map[string]any{"subnet": "10.0.3.0/24"}}}},
		{"bandwidth", "runtimeConfig", map[string]any{"ingressRate": 1}}, {"portMappings", "runtimeConfig", []any{map[string]any{"hostPort": 80}}},
		{"infinibandGUID", "runtimeConfig", "x"}, {"dns", "runtimeConfig", map[string]any{"servers": []string{"10.0.0.2"}}},
		{"aliases", "runtimeConfig", []string{"a"}},

		{"mac", "args.cni", foreignMAC}, {"ips", "args.cni", []string{"10.0.2.17/24"}},
		{"MAC", "CNI_ARGS", foreignMAC}, {"IP", "CNI_ARGS", "10.0.2.17/24"}, {"GATEWAY", "CNI_ARGS", "10.0.2.7"}, {"K8S_POD_NAME", "CNI_ARGS", "another"},
	}
}

// withoutEffect lists the accepted keys that change nothing in the pod or on the node, and
// why.
var withoutEffect = map[string]string{
	"$schema":  "names the schema to editors",
	"type":     "says which plugin the runtime runs",
	"logLevel": "says what is logged: TestLog",
	"args":     "has keys for several plugins: args.cni.mac and args.cni.ips are multi-eni's", "runtimeConfig": "has the capabilities, one by one",
	"capabilities": "is the runtime's", "cniVersions": "is the runtime's", "disableCheck": "is the runtime's",
	"disableGC": "is the runtime's", "loadOnlyInlinedPlugins": "is the runtime's",
}

// TestKeysOfNetconfAreAll: the table has every key of the reference and every accepted
// injected key.
func TestKeysOfNetconfAreAll(t *testing.T) {
	have := map[string]bool{}
	for _, k := range keysOfNetconf(&env{t: t, node: &nstest.Node{}}) {
		have[k.in+"."+k.name] = true
	}
	for in, of := range map[string]any{"": netconf.Config{}, "select": netconf.Select{}, "ipam": netconf.ENIIPAM{}} {
		structs := []any{of}
		if in == "" {
			structs = append(structs, netconf.Paths{})
		}
		for _, s := range structs {
			for _, f := range reflect.VisibleFields(reflect.TypeOf(s)) {
				key, _, _ := strings.Cut(f.Tag.Get("key"), ",")
				if key != "" && !have[in+"."+key] && withoutEffect[key] == "" {
					t.Errorf("%s.%s is in no row", in, key)
				}
			}
		}
	}
	accepted := `{"cniVersion":"1.1.0","name":"n","type":"multi-eni","select":{"nodeENI":"a"},%q:null}`
	for _, key := range []string{"cniVersion", "cniVersions", "name", "type", "args", "capabilities", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "dns",
		"prevResult", "runtimeConfig", "deviceID", "pciBusID", "ipam", "$schema"} {
		if _, err := netconf.ParseLenient(fmt.Appendf(nil, accepted, key)); err != nil || !have["."+key] && withoutEffect[key] == "" {
			t.Errorf("%s is in no row: %v", key, err)
		}
	}
}

type way struct {
	name string
	conf map[string]any
	// verbs are multi-eni's, or eni-ipam's for its binary.
	verbs func(*attach.Plugin, io.Writer) skel.CNIFuncs
}

func waysOf(e *env) []way {
	ours := func(p *attach.Plugin, out io.Writer) skel.CNIFuncs { return p.Funcs(context.Background(), out) }
	own := func() map[string]any { return map[string]any{"type": "eni-ipam", "dataDir": e.file("leases")} }
	local := map[string]any{"type": "host-local", "dataDir": e.file("ipam"), "subnet": "10.0.2.0/24", "rangeStart": "10.0.2.10"}
	hostDevice := map[string]any{"type": "host-device", "deviceField": "device"}
	macvlan := map[string]any{"type": "macvlan", "mode": "bridge"}
	sel := func(nodeENI string) map[string]any { return map[string]any{"nodeENI": nodeENI} }
	return []way{
		{"exclusive", map[string]any{"select": sel("a")}, ours},
		{"exclusive, eni-ipam", map[string]any{"select": sel("a"), "ipam": own()}, ours},
		{"exclusive, host-local", map[string]any{"select": sel("a"), "ipam": local}, ours},
		{"dpdk", map[string]any{"select": sel("dpdk")}, ours},
		{"dpdk, eni-ipam", map[string]any{"select": sel("dpdk"), "ipam": own()}, ours},
		{"host-device", map[string]any{"select": sel("a"), "delegate": hostDevice}, ours},
		{"host-device, eni-ipam", map[string]any{"select": sel("a"), "delegate": hostDevice, "ipam": own()}, ours},
		{"host-device, host-local", map[string]any{"select": sel("a"), "delegate": hostDevice, "ipam": local}, ours},
		{"macvlan, eni-ipam", map[string]any{"select": sel("shared"), "delegate": macvlan, "ipam": own()}, ours},
		{"macvlan, host-local", map[string]any{"select": sel("shared"), "delegate": macvlan, "ipam": local}, ours},
		{"ipvlan, eni-ipam", map[string]any{"select": sel("a"), "delegate": map[string]any{"type": "ipvlan"}, "ipam": own()}, ours},
		{"sriov, host-local", map[string]any{"select": sel("vf"), "delegate": map[string]any{"type": "sriov"}, "ipam": local}, ours},
		{"unknown, eni-ipam", map[string]any{"select": sel("a"), "delegate": map[string]any{"type": "other", "deviceField": "device"}, "ipam": own()}, ours},
		{"unknown, dpdk", map[string]any{"select": sel("dpdk"), "delegate": map[string]any{"type": "quiet", "deviceField": "pciBusID"}, "ipam": own()}, ours},
		{"eni-ipam below macvlan", map[string]any{
			"type": "macvlan", "master": "ens12", "select": nil, "dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil,
			"ipam": map[string]any{"type": "eni-ipam", "dataDir": e.file("leases"), "inventory": e.file("inventory.json")},
		}, func(p *attach.Plugin, out io.Writer) skel.CNIFuncs { return p.IPAMFuncs(context.Background(), out) }},
	}
}

func (w way) with(k keyOfNetconf, args string) (conf map[string]any, newArgs string) {
	conf = maps.Clone(w.conf)
	switch k.in {
	case "":
		conf[k.name] = k.value
	case "CNI_ARGS":
		return conf, fmt.Sprintf("%s;%s=%s", args, k.name, k.value)
	case "args.cni":
		conf["args"] = map[string]any{"cni": map[string]any{k.name: k.value}}
	default:
		inner, _ := conf[k.in].(map[string]any)
		if inner = maps.Clone(inner); inner == nil {
			inner = map[string]any{}
		}
		inner[k.name] = k.value
		conf[k.in] = inner
	}
	return conf, args
}

func (w way) applies(k keyOfNetconf) bool {
	ipam, _ := w.conf["ipam"].(map[string]any)
	binary := strings.HasPrefix(w.name, "eni-ipam")
	delegate, _ := w.conf["delegate"].(map[string]any)
	shared := binary || delegate["type"] == "macvlan" || delegate["type"] == "ipvlan"
	switch {
	case k.in == "ipam" && k.name == "dataDir" && !shared: // where leases are that keep it from having the ENI alone
		return false
	case k.in == "ipam":
		return ipam["type"] == "eni-ipam"
	case binary: // the others are the business of the plugin that runs it
		return k.name == "ips" || k.name == "IP" || k.name == "GATEWAY"
	}
	return true
}

// observe runs ADD and DEL and describes all their visible effects.
func (e *env) observe(w way, exec *likeness, args *skel.CmdArgs) (seen string, added bool) {
	e.t.Helper()
	for _, dir := range []string{"leases", "leases2", "ipam", "records2"} {
		must(e.t, os.RemoveAll(e.file(dir)))
	}
	must(e.t, os.RemoveAll(e.file("info.json")))
	must(e.t, os.RemoveAll(e.file("log2")))
	exec.got = ""
	p := &attach.Plugin{Exec: exec}
	var out strings.Builder
	err := w.verbs(p, &out).Add(args)
	lines := []string{"error: " + fmt.Sprint(err), out.String(), exec.got}
	added = err == nil
	h := inNetns(e.t, args.Netns)
	for _, l := range e.podLinks(args) {
		if strings.HasPrefix(l.Name, "peer") {
			continue
		}
		have, err := h.Addresses(l.Index)
		must(e.t, err)
		have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
		lines = append(lines, fmt.Sprintf("link %s mac %s mtu %d %v", l.Name, l.MAC, l.MTU, have))
	}
	h.Close()
	must(e.t, nstest.In(args.Netns, func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("route %v via %v mtu %d", r.Dst, r.Gw, r.MTU))
		}
		return err
	}))
	records, _, err := e.records().List()
	must(e.t, err)
	for _, r := range records {
		lines = append(lines, fmt.Sprintf("record of %s, network %s", r.Pod, r.Network))
	}
	lines = append(lines, e.files()...)
	if err := w.verbs(p, io.Discard).Del(args); err != nil {
		lines = append(lines, "DEL: "+err.Error())
	}
	for _, dir := range []string{"leases", "leases2"} {
		paths, err := filepath.Glob(e.file(dir, "*", "*.json"))
		must(e.t, err)
		for _, path := range paths {
			data, err := os.ReadFile(path)
			must(e.t, err)
			lines = append(lines, regexp.MustCompile(`"coolDownNanoseconds": ?\d+`).FindAllString(string(data), -1)...)
		}
	}
	text := strings.Join(lines, "\n")
	// A random MAC of macvlan is not compared.
	return regexp.MustCompile(`(?i)([0-9a-f]{2}:){5}[0-9a-f]{2}`).ReplaceAllStringFunc(text, func(mac string) string {
		if mac == foreignMAC || strings.HasPrefix(mac, "02:00:00:00:00:0") {
			return mac
		}
		return "some"
	}), added
}

func (e *env) files() (out []string) {
	for _, pattern := range []string{"records/*.json", "records2/*.json", "log*", "info.json", "leases*", "leases/*/*.json", "leases2/*/*.json"} {
		paths, err := filepath.Glob(e.file(pattern))
		must(e.t, err)
		out = append(out, paths...)
	}
	return out
}

// TestEveryKeyHasAnEffect: each accepted key has a visible effect or is refused, for every
// way to get a device.
func TestEveryKeyHasAnEffect(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and in one goroutine")
	}
	if nstest.Outside(t) {
		return
	}
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", MAC: "02:00:00:00:00:0b", NoLink: true}
	vf := nstest.ENI{PCI: "0000:00:0d.0", Name: "vf0", MAC: "02:00:00:00:00:0d", Driver: "iavf", VF: "0000:00:1e.0"}
	e := newEnv(t, vfio, vf)
	e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "fd00:2::16/64", "fd00:2::17/64")
	dpdk := row(vfio, "dpdk")
	dpdk.InterfaceName, dpdk.Driver = "", vfio.Driver
	e.inv.Devices = append(e.inv.Devices, dpdk, row(vf, "vf"))
	for i := range e.inv.Devices {
		e.inv.Devices[i].Addresses = prefixes("10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "fd00:2::15/64", "fd00:2::16/64")
	}
	e.writeInventory()
	e.path = copyBinaries(t, e, "macvlan", "host-device", "host-local", "static")
	exec := &likeness{Exec: fake("none", nil).Exec, hostDevice: e.file("bin", "host-device")}
	for _, w := range waysOf(e) {
		t.Run(w.name, func(t *testing.T) {
			args := e.pod(w.conf)
			before, ok := e.observe(w, exec, args)
			if !ok {
				t.Fatalf("ADD without any of the keys:\n%s", before)
			}
			again, _ := e.observe(w, exec, args)
			if diff := cmp.Diff(before, again); diff != "" {
				t.Fatalf("the same twice (-first +second):\n%s", diff)
			}
			taken := 0
			for _, k := range keysOfNetconf(e) {
				if !w.applies(k) {
					continue
				}
				conf, env := w.with(k, args.Args)
				with := *args
				with.StdinData, with.Args = e.conf(conf), env
				after, ok := e.observe(w, exec, &with)
				if ok {
					taken++
				}
				if after == before {
					t.Errorf("%s.%s is accepted, and nothing comes of it:\n%s", k.in, k.name, after)
				}
			}
			if taken == 0 {
				t.Error("no key at all is taken")
			}
		})
	}
}
