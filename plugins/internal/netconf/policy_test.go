package netconf

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const policyText = `{"schemaVersion":1,"binDir":"/opt/cni/bin","delegates":["ipvlan","host-device"],"ipam":["host-local"],
	"dataDir":"/d","inventory":"/i","sysfs":"/s","logFile":"/l","logLevel":"debug","leaseDir":"/e",
	"restricted":{"host-device":{"trust":["off"],"max":["5","7"],"nothing":[]},"host-local":{"gateway":[]}}}`

func policy(t *testing.T) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(policyText))
	must(t, err)
	return p
}

func TestParsePolicy(t *testing.T) {
	want := &Policy{
		SchemaVersion: 1, BinDir: "/opt/cni/bin", Delegates: []string{"ipvlan", "host-device"}, IPAM: []string{"host-local"},
		DataDir: "/d", Inventory: "/i", Sysfs: "/s", LogFile: "/l", LogLevel: "debug", LeaseDir: "/e",
		Restricted: map[string]map[string][]string{"host-device": {"trust": {"off"}, "max": {"5", "7"}, "nothing": {}}, "host-local": {"gateway": {}}},
	}
	equal(t, want, policy(t), "ParsePolicy")
	if p, err := ParsePolicy([]byte(`{"schemaVersion":1,"binDir":"/opt/cni/bin"}`)); err != nil || len(p.Delegates)+len(p.IPAM) > 0 {
		t.Errorf("the least policy: %+v, %v; want it to allow no other plugin", p, err)
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	for content, want := range map[string]string{
		``:                                  "EOF",
		`null`:                              "schemaVersion 0, want 1",
		`[]`:                                "array",
		`{"schemaVersion":2,"binDir":"/b"}`: "schemaVersion 2, want 1",
		`{"schemaVersion":1,"binDir":"/b","delegate":["ipvlan"]}`:                                   `unknown field "delegate"`,
		`{"schemaVersion":1,"binDir":"/b","delegates":"ipvlan"}`:                                    "delegates",
		`{"schemaVersion":1,"binDir":"/b"}{"delegates":["x"]}`:                                      "got more after the object",
		`{"schemaVersion":1,"binDir":"/b"} garbage`:                                                 "got more after the object",
		`{"schemaVersion":1,"binDir":"/b","delegates":["ipvlan"],"Delegates":["x"]}`:                "Delegates is delegates in another spelling",
		`{"schemaVersion":1,"binDir":"/b","restricted":{"sriov":{"trust":["off"],"trust":["on"]}}}`: "restricted.sriov.trust is given twice",
		`{"schemaVersion":1,"binDir":"/b","restricted":{"sriov":{"trust":"off"}}}`:                  "restricted",
		`{"schemaVersion":1}`: `binDir "": want an absolute path without "..", "//" or a slash at the end`,
		`{"schemaVersion":1,"binDir":"/b","logLevel":"loud"}`: `logLevel "loud": want one of debug, info, warning, error`,
		`{"schemaVersion":1,"binDir":"b","dataDir":"/d/","inventory":"../i","sysfs":"s","logFile":"/l/../m"}`: `parse /etc/multi-eni/policy.json: binDir "b": ` +
			`want an absolute path without "..", "//" or a slash at the end
parse /etc/multi-eni/policy.json: dataDir "/d/": want an absolute path without "..", "//" or a slash at the end
parse /etc/multi-eni/policy.json: inventory "../i": want an absolute path without "..", "//" or a slash at the end
parse /etc/multi-eni/policy.json: sysfs "s": want an absolute path without "..", "//" or a slash at the end
parse /etc/multi-eni/policy.json: logFile "/l/../m": want an absolute path without "..", "//" or a slash at the end`,
	} {
		p, err := ParsePolicy([]byte(content))
		if p != nil || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), nodestate.DefaultPolicyPath) {
			t.Errorf("ParsePolicy(%s) = %+v, %v; want an error with the file and %q", content, p, err, want)
		}
	}
}

// TestSalvagePolicy: a policy that ParsePolicy refuses allows nothing, but may tell the
// records' path.
func TestSalvagePolicy(t *testing.T) {
	for content, want := range map[string]*Policy{
		`{"schemaVersion":1,"binDir":"/b","dataDir":"/d","leaseDir":"/l","allow":1,"delegates":["x"],"ipam":["y"],"logFile":"/f"}`: {BinDir: "/b", DataDir: "/d",
			LeaseDir: "/l"},
		`{"schemaVersion":1,"inventory":"/i","sysfs":"/s","delegates":1}`: {Inventory: "/i", Sysfs: "/s"},
		`{"schemaVersion":1}`:                               {},
		`{"schemaVersion":2,"dataDir":"/d"}`:                nil,
		`{"schemaVersion":1,"dataDir":"d"}`:                 nil,
		`{"schemaVersion":1,"dataDir":1}`:                   nil,
		`{"schemaVersion":1,"dataDir":"/d","DataDir":"/e"}`: nil,
		`{"schemaVersion":1,"dataDir":"/d"`:                 nil,
		``:                                                  nil,
	} {
		equal(t, want, SalvagePolicy([]byte(content)), "SalvagePolicy(%s)", content)
	}
}

func TestResolvePaths(t *testing.T) {
	c := parseOK(t, with(`,"dataDir":"/tenant","logLevel":"error"`))
	none := DefaultPaths()
	none.DataDir, none.LogLevel = "/tenant", "error"
	for name, tt := range map[string]struct {
		policy *Policy
		want   Paths
		bin    []string
	}{
		"no policy":     {nil, none, []string{"/a", "/b"}},
		"silent policy": {&Policy{BinDir: "/opt/cni/bin"}, DefaultPaths(), []string{"/opt/cni/bin"}},
		"policy":        {policy(t), Paths{"/d", "/i", "/s", "/l", "debug", "/e"}, []string{"/opt/cni/bin"}},
	} {
		equal(t, tt.want, tt.policy.ResolvePaths(c), "%s: ResolvePaths", name)
		equal(t, tt.bin, tt.policy.BinDirs("/a:/b"), "%s: BinDirs", name)
	}
}

func TestPolicyCheck(t *testing.T) {
	for keys, want := range map[string]string{
		"": "",
		`,"delegate":{"type":"ipvlan","mode":"l2"},"ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.2.0/24","gateway":"10.0.2.1"}]]` +
			`,"routes":[{"dst":"fd00::/8"}]}`: "",
		`,"ipam":{"type":"host-local","range":"10.0.2.5-10.0.2.9/24"}`: "",
		`,"sysfs":"/tmp/sys","dataDir":"/tmp"`: `policy forbids dataDir "/tmp": the node's paths are fixed in ` +
			`/etc/multi-eni/policy.json; remove the key`,
		`,"logLevel":"debug"`: `policy forbids logLevel "debug": the node's paths are fixed ` +
			`in /etc/multi-eni/policy.json; remove the key`,
		`,"delegate":{"type":"macvlan"}`: `policy forbids delegate.type "macvlan": ` +
			`/etc/multi-eni/policy.json allows ipvlan, host-device; use an allowed type, or have an administrator add this one`,
		`,"ipam":{"type":"static"}`: `policy forbids ipam.type "static": /etc/multi-eni/policy.json ` +
			`allows host-local; use an allowed type, or have an administrator add this one`,
		`,"delegate":{"type":"ipvlan"},"ipam":{"type":"static"}`: `policy forbids ipam.type "static": /etc/multi-eni/policy.json ` +
			`allows host-local; use an allowed type, or have an administrator add this one`,
		`,"ipam":{"type":"host-local","dataDir":"/etc"}`: `policy forbids ipam.dataDir "/etc": a netconf must not choose ` +
			`another plugin's paths; remove the key`,
		`,"ipam":{"type":"host-local","x":1e999,"dataDir":"/etc"}`: `policy forbids ipam.dataDir "/etc": a netconf must not choose ` +
			`another plugin's paths; remove the key`,
		`,"ipam":{"type":"host-local","a":[{"b":1},{"c":"etc/cron.d"}]}`: `policy forbids ipam.a[1].c "etc/cron.d": a netconf must not ` +
			`choose another plugin's paths; remove the key`,
		`,"delegate":{"type":"host-device","trust":"off","max":7,"nothing":null,"all":{"x":1}}`: "",
		`,"delegate":{"type":"host-device","trust":"on"}`: `policy forbids delegate.trust "on": ` +
			`/etc/multi-eni/policy.json allows off for this key of host-device; remove the key, or use an allowed value`,
		`,"delegate":{"type":"host-device","TRU\u017fT":"x"}`: `policy forbids delegate.TRUſT "x": /etc/multi-eni/policy.json ` +
			`allows off for this key of host-device; remove the key, or use an allowed value`,
		`,"delegate":{"type":"host-device","trust":""}`: `policy forbids delegate.trust "\"\"": ` +
			`/etc/multi-eni/policy.json allows off for this key of host-device; remove the key, or use an allowed value`,
		`,"delegate":{"type":"host-device","trust":true}`: `policy forbids delegate.trust "true": ` +
			`/etc/multi-eni/policy.json allows off for this key of host-device; remove the key, or use an allowed value`,
		`,"delegate":{"type":"host-device","max":8}`: `policy forbids delegate.max "8": /etc/multi-eni/policy.json ` +
			`allows 5, 7 for this key of host-device; remove the key, or use an allowed value`,
		`,"delegate":{"type":"host-device","nothing":0}`: `policy forbids delegate.nothing "0": ` +
			`/etc/multi-eni/policy.json allows none for this key of host-device; remove the key, or use an allowed value`,
		`,"delegate":{"type":"ipvlan","trust":"on"}`: "",
		`,"ipam":{"type":"host-local","gateway":"10.0.0.1"}`: `policy forbids ipam.gateway "10.0.0.1": ` +
			`/etc/multi-eni/policy.json allows none for this key of host-local; remove the key, or use an allowed value`,
		`,"delegate":{"type":"ipvlan","x":{"y":".."}}`: `policy forbids delegate.x.y "..": a netconf must not choose ` +
			`another plugin's paths; remove the key`,
	} {
		c := parseOK(t, with(keys))
		err := policy(t).Check(c)
		var forbidden *PolicyError
		switch {
		case want == "" && err != nil:
			t.Errorf("Check(%s) = %v; want it allowed", keys, err)
		case want != "" && (!errors.As(err, &forbidden) || err.Error() != want):
			t.Errorf("Check(%s) = %v; want %s", keys, err, want)
		}
		if err := (*Policy)(nil).Check(c); err != nil {
			t.Errorf("without a policy: %v", err)
		}
		if err := (*Policy)(nil).CheckTypes(c); err != nil {
			t.Errorf("types without a policy: %v", err)
		}
	}
	err := (&Policy{}).Check(parseOK(t, with(`,"ipam":{"type":"static"}`)))
	if want := `policy forbids ipam.type "static": /etc/multi-eni/policy.json allows none; use an allowed type, or have an administrator add this ` +
		`one`; err == nil || err.Error() != want {
		t.Errorf("an empty list: %v; want %s", err, want)
	}
}

// TestDeviceInfoFile: only Multus's name for this attachment's file is allowed.
func TestDeviceInfoFile(t *testing.T) {
	id := nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}
	const dir = "/var/run/k8s.cni.cncf.io/devinfo/cni/"
	for path, ok := range map[string]bool{
		"": true, dir + "shop-dataplane-c1_net1": true, "/run/k8s.cni.cncf.io/devinfo/cni/dataplane-c1_net1": true,
		dir + "shop-dataplane-c2_net1": false, dir + "shop-dataplane-c1_net2": false, dir + "shop-dataplane-xc1_net1": false, dir + "c1_net1": false,
		dir + "x/shop-c1_net1": false, dir + "x": false, dir + "shop-c1_net1.json": false,
		"/etc/cron.d/x-c1_net1": false, "/varrun/k8s.cni.cncf.io/devinfo/cni/x-c1_net1": false,
	} {
		err := policy(t).CheckDeviceInfoFile(path, id)
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), `policy forbids runtimeConfig.CNIDeviceInfoFile "`+path) {
			t.Errorf("%s: %v; want it allowed: %t", path, err, ok)
		}
		if err := (*Policy)(nil).CheckDeviceInfoFile(path, id); err != nil {
			t.Errorf("without a policy: %v", err)
		}
	}
}

func TestFindPath(t *testing.T) {
	for value, path := range map[string]bool{
		"": false, "l2": false, "10.0.0.0/24": false, "fd00::/64": false, "10.0.0.1-10.0.0.9/24": false, ".": false, "a.b": false, "a..b": false, "eth0": false,
		"/": true, "/etc": true, "./x": true, "../x": true, "x/../y": true, "..": true, "x/..": true, "etc/passwd": true, "~/x": true, "10.0.0.0/../etc": true,
		"10.0.0.0-x/24": true, "a-10.0.0.0/24": true, "10.0.0.0/33": true, "abc/1": true, "file:///etc": true,
	} {
		raw, err := json.Marshal(map[string]any{"key": value})
		must(t, err)
		at, found := findPath("ipam", raw)
		if path && (at != "ipam.key" || found != value) || !path && at != "" {
			t.Errorf("findPath(%s) = %q, %q; want found: %t", raw, at, found, path)
		}
	}
	for value, want := range map[string]string{"": "", "leases": "ipam.datadir"} { // the key tells that it is a path
		if at, _ := findPath("ipam", json.RawMessage(`{"datadir":"`+value+`"}`)); at != want {
			t.Errorf("findPath of datadir %q = %q; want %q", value, at, want)
		}
	}
}

func TestCheckNamespace(t *testing.T) {
	p := policy(t)
	for name, tt := range map[string]struct {
		policy    *Policy
		allowed   []string
		namespace string
		want      string
	}{
		"no policy":             {nil, []string{"prod"}, "dev", ""},
		"no list":               {p, nil, "dev", ""},
		"no list, no namespace": {p, nil, "", ""},
		"in the list":           {p, []string{"prod", "dev"}, "dev", ""},
		"not in the list": {p, []string{"prod", "stage"}, "dev", `policy forbids K8S_POD_NAMESPACE "dev": NodeENI dataplane-a allows these namespaces: ` +
			`prod, stage (annotation networking.k8s.aws/allowed-namespaces); run the pod there, or select another NodeENI`},
		"no namespace": {p, []string{"prod"}, "", `policy forbids K8S_POD_NAMESPACE "": NodeENI dataplane-a allows these namespaces: prod ` +
			`(annotation networking.k8s.aws/allowed-namespaces); run the pod there, or select another NodeENI`},
		"nobody": {p, []string{""}, "dev", `policy forbids K8S_POD_NAMESPACE "dev": NodeENI dataplane-a allows these namespaces: none ` +
			`(annotation networking.k8s.aws/allowed-namespaces); run the pod there, or select another NodeENI`},
		"nobody, and nobody asks": {p, []string{""}, "", `policy forbids K8S_POD_NAMESPACE "": NodeENI dataplane-a allows these namespaces: none (annotation ` +
			`networking.k8s.aws/allowed-namespaces); run the pod there, or select another NodeENI`},
	} {
		err := tt.policy.CheckNamespace(nodestate.Device{NodeENI: "dataplane-a", AllowedNamespaces: tt.allowed}, tt.namespace)
		if got := errText(err); got != tt.want {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(policyText), []byte(with(inherited+`,"delegate":{"type":"ipvlan"}`)))
	f.Add([]byte(`{"schemaVersion":1,"binDir":"/b","restricted":{"sriov":{"trust":[],"x":null},"y":null}}`),
		[]byte(with(`,"delegate":{"type":"sriov","TRUST":"on"}`)))
	f.Add([]byte(`{"schemaVersion":1,"binDir":"/b","restricted":{}}`), []byte(with(``)))
	f.Add([]byte(`{"schemaVersion":1,"binDir":"/b"}`), []byte(with(`,"ipam":{"type":"host-local","dataDir":"/etc"}`)))
	f.Fuzz(func(t *testing.T, policy, stdin []byte) {
		p, err := ParsePolicy(policy)
		if err != nil {
			if p != nil {
				t.Fatalf("ParsePolicy gives %+v with its error %v", p, err)
			}
			return
		}
		written, err := json.Marshal(p)
		must(t, err)
		if again, err := ParsePolicy(written); err != nil || cmp.Diff(p, again) != "" {
			t.Fatalf("ParsePolicy of %s: %v\n%s", written, err, cmp.Diff(p, again))
		}
		c, err := Parse(stdin)
		if err != nil || p.Check(c) != nil {
			return
		}
		// An accepted netconf names no path of its own, and no plugin beyond the lists.
		if len(c.PathKeys()) > 0 || p.ResolvePaths(c) != p.ResolvePaths(&Config{}) {
			t.Fatalf("paths of %s pass", stdin)
		}
		if err := p.CheckTypes(c); err != nil {
			t.Fatalf("%s passes: %v", stdin, err)
		}
	})
}
