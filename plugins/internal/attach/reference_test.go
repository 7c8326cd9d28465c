package attach_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// referenceCase is a test of the reference project for host-device, macvlan or ipvlan, by
// its title there. Run does the same with multi-eni in each version; if it is nil, reason
// says why. Cases with the master in the container (linkInContainer) do not apply.
type referenceCase struct {
	title  string
	run    func(*env, string)
	reason string
}

var referenceCases = map[string][]referenceCase{
	"host-device": {
		{title: "[%s] works with a valid config without IPAM", run: (*env).caseWithoutIPAM},
		{title: "Works with a valid %s config with IPAM", run: (*env).caseWithIPAM},
		{title: "Works with a valid %s config on a DPDK device with IPAM", run: (*env).caseDPDK},
		{title: "[%s] ensures CmdDel is idempotent", run: (*env).caseNameTaken},
		{title: "Test idempotence of CmdDel with %s config", run: (*env).caseNameTaken},
		{title: "[%s] fails an invalid config", run: (*env).caseNoDevice},
		{title: "Test CmdAdd/Del when additioinal interface alreay exists in container ns with same name. %s config", run: (*env).caseSameNameInPod},
		{title: "Works with a valid %s config on auxiliary device", reason: "an ENI is a PCI function and has no auxiliary device; select knows none"},
	},
	"macvlan": {
		{title: "[%s] creates an macvlan link in a non-default namespace", run: sharedCase("macvlan", "foobar0", nil)},
		{title: "[%s] configures and deconfigures a macvlan link with ADD/DEL", run: sharedCase("macvlan", "macvl0", hostLocal)},
		{title: "[%s] configures and deconfigures a macvlan link with ADD/CHECK/DEL", run: sharedCase("macvlan", "macvl0", hostLocalRanges)},
		{title: "[%s] configures and deconfigures a l2 macvlan link with ADD/DEL", run: sharedCase("macvlan", "macvl0", nil)},
		{title: "[%s] deconfigures an unconfigured macvlan link with DEL", run: unconfiguredCase("macvlan")},
		{title: "[%s] configures and deconfigures a macvlan link with ADD/DEL, without master config",
			reason: "multi-eni names the master, which select finds, and never takes the device with the default route"},
		{title: "[%s] configures and deconfigures l2 macvlan link with mac address (from CNI_ARGS) with ADD/DEL", run: (*env).caseMACOfArgs},
		{title: "[%s] configures and deconfigures l2 macvlan link with mac address (from RuntimeConfig) with ADD/DEL", run: (*env).caseMACOfRuntime},
	},
	"ipvlan": {
		{title: "[%s] creates an ipvlan link in a non-default namespace", run: sharedCase("ipvlan", "foobar0", hostLocal)},
		{title: "[%s] configures and deconfigures an iplvan link with ADD/DEL", run: sharedCase("ipvlan", "ipvl0", hostLocal)},
		{title: "[%s] configures and deconfigures an iplvan link with ADD/DEL when chained", run: (*env).caseChained},
		{title: "[%s] deconfigures an unconfigured ipvlan link with DEL", run: unconfiguredCase("ipvlan")},
		{title: "[%s] configures and deconfigures a ipvlan link with ADD/DEL, without master config",
			reason: "multi-eni names the master, which select finds, and never takes the device with the default route"},
	},
}

var referenceVersions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// TestReferenceCasesAreKnown: the table has exactly the reference project's cases for
// these plugins.
func TestReferenceCasesAreKnown(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/containernetworking/plugins").Output()
	must(t, err)
	for plugin, cases := range referenceCases {
		source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "plugins/main", plugin, plugin+"_test.go"))
		must(t, err)
		var theirs, ours []string
		for _, m := range regexp.MustCompile(`It\(fmt\.Sprintf\("([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
			theirs = append(theirs, m[1])
		}
		for _, c := range cases {
			if (c.run == nil) == (c.reason == "") {
				t.Errorf("%s: %s: want either a function or a reason", plugin, c.title)
			}
			ours = append(ours, c.title)
		}
		slices.Sort(theirs)
		slices.Sort(ours)
		equal(t, slices.Compact(theirs), ours, "%s", plugin)
	}
}

func TestReferenceCases(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.shared()
	for plugin, cases := range referenceCases {
		for _, c := range cases {
			if c.run == nil {
				continue
			}
			t.Run(plugin+"/"+c.title, func(t *testing.T) {
				for _, ver := range referenceVersions {
					inner := *e
					inner.t = t
					before := inner.snapshot()
					c.run(&inner, ver)
					inner.unchanged(before, "after "+ver)
					e.pods = inner.pods
				}
			})
		}
	}
}

// makes reports whether the kernel has links of a delegate's kind. If not, ADD must fail
// and leave nothing.
func (e *env) makes(typ string, args *skel.CmdArgs) bool {
	if typ != "ipvlan" || hasIPvlan() {
		return true
	}
	if _, err := run(&attach.Plugin{}, "ADD", args); err == nil {
		e.t.Error("ADD without ipvlan in the kernel succeeds")
	}
	e.del(args)
	return false
}

func hasIPvlan() bool {
	master, err := netlink.LinkByName("ens12")
	if err != nil {
		return false
	}
	l := &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "probe", ParentIndex: master.Attrs().Index}, Mode: netlink.IPVLAN_MODE_L2}
	return netlink.LinkAdd(l) == nil && netlink.LinkDel(l) == nil
}

// life runs ADD, and CHECK if the version has it, and returns the result. The caller runs
// DEL.
func (e *env) life(ver string, args *skel.CmdArgs) *types100.Result {
	e.t.Helper()
	out, err := run(&attach.Plugin{}, "ADD", args)
	must(e.t, err)
	said, err := version.NewResult(ver, out)
	must(e.t, err)
	if said.Version() != ver {
		e.t.Errorf("a result of version %s; want %s", said.Version(), ver)
	}
	result, err := types100.NewResultFromResult(said)
	must(e.t, err)
	if len(result.Interfaces) != 1 || result.Interfaces[0].Name != args.IfName || result.Interfaces[0].Sandbox != args.Netns {
		e.t.Errorf("%s: interfaces of the result: %+v; want %s in %s", ver, result.Interfaces, args.IfName, args.Netns)
	}
	if has, err := version.GreaterThanOrEqualTo(ver, "0.4.0"); err == nil && has {
		var conf map[string]any
		must(e.t, json.Unmarshal(args.StdinData, &conf))
		conf["prevResult"] = json.RawMessage(out)
		check := *args
		check.StdinData, err = json.Marshal(conf)
		must(e.t, err)
		e.succeeds("CHECK", &check)
	}
	return result
}

func (e *env) sameDevice(args *skel.CmdArgs, result *types100.Result, mac string) {
	e.t.Helper()
	inPod(e.t, args, func(_ *link.Handle, l link.Link) error {
		if l.MAC.String() != mac || !l.Up || result.Interfaces[0].Mac != mac {
			e.t.Errorf("in the pod %+v, in the result %+v; want %s, up", l, result.Interfaces[0], mac)
		}
		return nil
	})
	if _, err := netlink.LinkByName(eniA.Name); err == nil {
		e.t.Errorf("%s is still in the host", eniA.Name)
	}
}

func (e *env) caseWithoutIPAM(ver string) {
	for _, delegate := range []any{nil, map[string]any{"type": "host-device", "deviceField": "device"}} {
		args := e.pod(map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "a"}, "delegate": delegate})
		e.sameDevice(args, e.life(ver, args), eniA.MAC)
		e.del(args)
	}
}

func static(address, gateway string) map[string]any {
	return map[string]any{"type": "static", "addresses": []any{map[string]any{"address": address, "gateway": gateway}}}
}

func (e *env) caseWithIPAM(ver string) {
	for _, delegate := range []any{nil, map[string]any{"type": "host-device", "deviceField": "device"}} {
		args := e.pod(map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "a"}, "delegate": delegate,
			"ipam": static("10.10.0.1/24", "10.10.0.254")})
		e.sameDevice(args, e.life(ver, args), eniA.MAC)
		e.hasAddress(args, "10.10.0.1/24")
		e.del(args)
	}
}

func (e *env) hasAddress(args *skel.CmdArgs, want string) {
	e.t.Helper()
	inPod(e.t, args, func(in *link.Handle, l link.Link) error {
		have, err := in.Addresses(l.Index)
		if !slices.Contains(have, netip.MustParsePrefix(want)) {
			e.t.Errorf("addresses %v; want %s", have, want)
		}
		return err
	})
}

func (e *env) caseDPDK(ver string) {
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", MAC: "02:00:00:00:00:0b", NoLink: true}
	must(e.t, e.node.Attach(vfio))
	args := e.pod(map[string]any{"cniVersion": ver, "deviceID": vfio.PCI, "ipam": static("10.10.0.1/24", "10.10.0.254")})
	if result := e.life(ver, args); len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.10.0.1/24" {
		e.t.Errorf("ips %v", result.IPs)
	}
	e.holdsNone(args)
	e.del(args)
	must(e.t, e.node.Detach(vfio))
}

// caseNameTaken differs from the reference, whose DEL fails until the name is free. Here
// the device returns at once under another name, and gets its own when that is free.
func (e *env) caseNameTaken(ver string) {
	args := e.pod(map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "a"}})
	e.sameDevice(args, e.life(ver, args), eniA.MAC)
	conflict := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: eniA.Name}}
	must(e.t, netlink.LinkAdd(conflict))
	e.del(args)
	e.holdsNone(args)
	must(e.t, netlink.LinkDel(conflict))
	e.roundTrip(map[string]any{"select": map[string]any{"nodeENI": "a"}})
	if l, err := netlink.LinkByName(eniA.Name); err != nil || l.Attrs().HardwareAddr.String() != eniA.MAC {
		e.t.Errorf("%s in the host: %v, %v", eniA.Name, l, err)
	}
}

func (e *env) caseNoDevice(ver string) {
	e.refused("ADD", e.pod(map[string]any{"cniVersion": ver}), 7, "select", "names no device")
}

func (e *env) caseSameNameInPod(ver string) {
	args := e.pod(map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "a"}})
	own := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: eniA.Name}}
	must(e.t, nstest.In(args.Netns, func() error { return netlink.LinkAdd(own) }))
	before := e.podLinks(args)
	e.sameDevice(args, e.life(ver, args), eniA.MAC)
	e.del(args)
	equal(e.t, before, e.podLinks(args), "the pod's own interface")
}

func hostLocal(e *env) map[string]any {
	return map[string]any{"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": e.file("ipam")}
}

func hostLocalRanges(e *env) map[string]any {
	return map[string]any{"type": "host-local", "ranges": []any{[]any{map[string]any{"subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}}}, "dataDir": e.file("ipam")}
}

func sharedCase(typ, ifname string, ipam func(*env) map[string]any) func(*env, string) {
	return func(e *env, ver string) {
		conf := map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "shared"}, "delegate": map[string]any{"type": typ}}
		addresses := 0
		if ipam != nil {
			conf["ipam"], addresses = ipam(e), 1
		}
		args := e.pod(conf)
		args.IfName = ifname
		if _, err := run(&attach.Plugin{}, "STATUS", args); err != nil && ver == "1.1.0" { // which introduced STATUS
			e.t.Errorf("STATUS: %v", err)
		}
		if !e.makes(typ, args) {
			return
		}
		result := e.life(ver, args)
		inPod(e.t, args, func(in *link.Handle, l link.Link) error {
			have, err := in.Addresses(l.Index)
			have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().Is6() })
			if l.Kind != typ || l.MAC.String() != result.Interfaces[0].Mac || len(have) != addresses || len(result.IPs) != addresses {
				e.t.Errorf("in the pod %+v with %v, in the result %+v with %v", l, have, result.Interfaces[0], result.IPs)
			}
			return err
		})
		e.del(args)
		e.holdsNone(args)
	}
}

func unconfiguredCase(typ string) func(*env, string) {
	return func(e *env, ver string) {
		e.del(e.pod(map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "shared"}, "delegate": map[string]any{"type": typ}, "ipam": hostLocal(e)}))
	}
}

func (e *env) caseMACOfArgs(ver string) {
	e.asksForMAC(ver, "IgnoreUnknown=true;MAC=c2:11:22:33:44:55", nil)
}

func (e *env) caseMACOfRuntime(ver string) {
	e.asksForMAC(ver, "", map[string]any{"capabilities": map[string]any{"mac": true}, "runtimeConfig": map[string]any{"mac": "c2:11:22:33:44:55"}})
}

func (e *env) asksForMAC(ver, cniArgs string, more map[string]any) {
	conf := map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "shared"}, "delegate": map[string]any{"type": "macvlan"}}
	for k, v := range more {
		conf[k] = v
	}
	args := e.pod(conf)
	args.Args = cniArgs
	const mac = "c2:11:22:33:44:55"
	result := e.life(ver, args)
	inPod(e.t, args, func(_ *link.Handle, l link.Link) error {
		if l.MAC != mac || result.Interfaces[0].Mac != mac {
			e.t.Errorf("MAC %s, in the result %s; want %s", l.MAC, result.Interfaces[0].Mac, mac)
		}
		return nil
	})
	e.del(args)
}

// caseChained gives ipvlan the addresses of an earlier plugin. The master is the selected
// device, not that plugin's interface.
func (e *env) caseChained(ver string) {
	prev := map[string]any{"cniVersion": ver, "interfaces": []any{map[string]any{"name": "ens12"}},
		"ips": []any{map[string]any{"version": "4", "address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 0}}, "routes": []any{}}
	args := e.pod(map[string]any{"cniVersion": ver, "select": map[string]any{"nodeENI": "shared"}, "delegate": map[string]any{"type": "ipvlan"},
		"prevResult": prev})
	if !e.makes("ipvlan", args) {
		return
	}
	e.life(ver, args)
	e.hasAddress(args, "10.1.2.2/24")
	e.del(args)
}
