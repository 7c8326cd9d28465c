package netconf

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
)

func spellings(key string) []string {
	odd := strings.NewReplacer("k", "\u212a", "s", "\u017f", "K", "\u212a", "S", "\u017f").Replace(key) // Kelvin sign, long s
	return slices.Compact([]string{key, strings.ToUpper(key), strings.ToLower(key), odd})
}

// TestFoldIsEncodingJSONs: two keys have one fold if and only if encoding/json reads both
// into the same field.
func TestFoldIsEncodingJSONs(t *testing.T) {
	field := reflect.StructOf([]reflect.StructField{{Name: "F", Type: reflect.TypeFor[bool](), Tag: `json:"ks_dir"`}})
	takes := func(key string) bool {
		text, err := json.Marshal(map[string]bool{key: true})
		must(t, err)
		v := reflect.New(field)
		return json.Unmarshal(text, v.Interface()) == nil && v.Elem().Field(0).Bool()
	}
	for r := rune(1); r <= 0x10500; r++ {
		if !unicode.IsLetter(r) && r > unicode.MaxLatin1 || unicode.Is(unicode.Lo, r) { // no case
			continue
		}
		for at := range "ks_dir" {
			key := "ks_dir"[:at] + string(r) + "ks_dir"[at+1:]
			if got, want := fold(key) == fold("ks_dir"), takes(key); got != want {
				t.Errorf("%q is one key with ks_dir: %t; encoding/json says %t", key, got, want)
			}
		}
	}
}

// pluginKeys returns the keys that each plugin of the default policy reads in its own part
// of a netconf, from the tags and names of its struct fields. Paths are string keys with a
// path-like name.
func pluginKeys(t *testing.T) (keys, paths map[string][]string) {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/containernetworking/plugins").Output()
	must(t, err)
	keys, paths = map[string][]string{
		// Of other modules: whereabouts v0.9.2 pkg/types, sriov-cni v2.9.0 pkg/types.
		"whereabouts": {"name", "type", "routes", "datastore", "addresses", "ipRanges", "node_slice_size", "exclude", "dns",
			"range", "range_start", "range_end", "gateway",
			"etcd_host", "etcd_username", "etcd_password", "etcd_key_file", "etcd_cert_file", "etcd_ca_cert_file", "leader_lease_duration", "leader_renew_deadline",
			"leader_retry_period", "log_file", "log_level", "reconciler_cron_expression", "enable_overlapping_ranges", "sleep_for_race", "kubernetes", "kubeconfig",
			"k8s_api_root", "configuration_path", "podName", "podNamespace", "network_name"},
		"sriov": {"origVfState", "DPDKMode", "master", "MAC", "vlan", "vlanQoS", "vlanProto", "deviceID", "VFID", "contIFNames",
			"min_tx_rate", "max_tx_rate", "spoofchk",
			"trust", "link_state", "logLevel", "logFile"},
	}, map[string][]string{}
	for typ, file := range map[string]string{
		"host-local": "ipam/host-local/backend/allocator/config.go", "static": "ipam/static/main.go", "dhcp": "ipam/dhcp/main.go",
		"ipvlan": "main/ipvlan/ipvlan.go", "macvlan": "main/macvlan/macvlan.go", "vlan": "main/vlan/vlan.go", "host-device": "main/host-device/host-device.go",
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "plugins", file), nil, 0)
		must(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			st, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					key := name.Name
					if f.Tag != nil {
						if tag, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ","); tag != "" {
							key = tag
						}
					}
					if key != "-" && ast.IsExported(name.Name) && !slices.Contains(keys[typ], key) {
						keys[typ] = append(keys[typ], key)
					}
				}
			}
			return true
		})
	}
	named := func(key string) bool {
		return slices.ContainsFunc([]string{"dir", "path", "file", "conf", "config", "socket"}, func(end string) bool {
			return strings.HasSuffix(strings.ToLower(key), end)
		})
	}
	for typ, all := range keys {
		if len(all) < 3 {
			t.Errorf("%s: its structs have the keys %q; want more", typ, all)
		}
		for _, key := range all {
			if named(key) && !containsFold(inheritedKeys, key) && !containsFold(reservedDeviceKeys, key) {
				paths[typ] = append(paths[typ], key)
			}
		}
	}
	return keys, paths
}

func place(typ string) string {
	if _, ok := knownDelegates[typ]; ok {
		return "delegate"
	}
	return "ipam"
}

// TestOthersPaths: every path key of a plugin of the default policy is known, in any
// spelling and at any depth.
func TestOthersPaths(t *testing.T) {
	_, paths := pluginKeys(t)
	if len(paths["host-local"]) != 2 || len(paths["dhcp"]) != 1 || len(paths["whereabouts"]) != 6 || len(paths["sriov"]) != 1 {
		t.Errorf("the paths of plugins: %v; want those of host-local, dhcp, whereabouts and sriov", paths)
	}
	everything := policy(t)
	for typ, keys := range paths {
		everything.Delegates, everything.IPAM = append(everything.Delegates, typ), append(everything.IPAM, typ)
		for _, key := range keys {
			for _, key := range spellings(key) {
				for _, form := range []string{`%q:%q`, `"x":{%q:%q}`, `"x":[{"y":{%q:%q}}]`} {
					conf := func(value string) string {
						return with(`,"` + place(typ) + `":{"type":"` + typ + `",` + fmt.Sprintf(form, key, value) + `}`)
					}
					if _, err := Parse([]byte(conf("etc"))); err == nil || !strings.Contains(err.Error(), "want an absolute path") {
						t.Errorf("Parse(%s) = %v; want the relative path refused", conf("etc"), err)
					}
					for _, value := range []string{"etc", "/etc"} {
						c, err := ParseLenient([]byte(conf(value)))
						must(t, err)
						if err := everything.Check(c); c.Refused == nil && err == nil {
							t.Errorf("%s passes the policy, and %s is run", conf(value), typ)
						}
					}
				}
			}
		}
	}
}

// TestOneKeyOneMeaning: no plugin gets a key twice, in any spelling, or a key made from an
// unknown key of the netconf.
func TestOneKeyOneMeaning(t *testing.T) {
	keys, _ := pluginKeys(t)
	for typ, keys := range keys {
		at := place(typ)
		for _, key := range keys {
			if at == "delegate" && (containsFold(inheritedKeys, key) || containsFold(reservedDeviceKeys, key)) || strings.EqualFold(key, "type") {
				continue // faults in any spelling: TestDelegateFaults
			}
			for _, other := range spellings(key) {
				for _, form := range []string{`%q:1,%q:2`, `"x":{%q:1,%q:2}`, `"x":[0,[{"y":{"a":[],%q:{},%q:{}}}]]`} {
					for _, pair := range [][2]string{{key, other}, {other, key}} {
						inside := fmt.Sprintf(form, pair[0], pair[1])
						stdin := with(`,"` + at + `":{"type":"` + typ + `",` + inside + `}`)
						if _, err := Parse([]byte(stdin)); err == nil || !strings.Contains(err.Error(), pair[1]+": is ") {
							t.Errorf("Parse(%s) = %v; want %s refused", stdin, err, pair[1])
						}
						checkUnambiguous(t, stdin)
					}
				}
			}
		}
	}
	for _, key := range []string{"ipam", "args", "runtimeConfig", "prevResult", "dns", "name", "cniVersion", "delegate"} {
		for _, other := range spellings(key) {
			evil := fmt.Sprintf(`,%q:{"type":"host-local","dataDir":"/anywhere","cni":{"ips":["10.0.0.1"]},"domain":"evil"}`, other)
			for _, stdin := range []string{
				with(`,"ipam":{"type":"host-local"}` + evil), with(evil + `,"ipam":{"type":"host-local"}`),
				with(`,"ipam":{"type":"host-local"},"delegate":{"type":"ipvlan"}` + evil),
			} {
				if _, err := Parse([]byte(stdin)); err == nil && other != key {
					t.Errorf("Parse(%s) = nil; want it refused", stdin)
				}
				if other != key {
					checkUnambiguous(t, stdin, "/anywhere", "evil", "10.0.0.1")
				}
			}
		}
	}
	for _, object := range []string{"args", "runtimeConfig", "prevResult", "dns"} {
		stdin := with(`,"ipam":{"type":"host-local"},"` + object + `":{"cni":{"ips":["10.0.0.1"],"IPS":["10.0.0.2"]},"ips":["10.0.0.1/24"],"iPs":["10.0.0.2/24"]}`)
		if _, err := Parse([]byte(stdin)); err == nil || !strings.Contains(err.Error(), object+".cni.IPS: is ips in another spelling") {
			t.Errorf("Parse(%s) = %v; want it refused", stdin, err)
		}
		checkUnambiguous(t, stdin, "10.0.0.1", "10.0.0.2")
	}
}

// checkUnambiguous requires that no netconf for another plugin, on DEL, GC or STATUS, has
// twins or one of these words.
func checkUnambiguous(t *testing.T, stdin string, not ...string) {
	t.Helper()
	c, err := ParseLenient([]byte(stdin))
	must(t, err)
	for _, conf := range handedTo(t, c) {
		if found := twins(conf, 1); len(found) > 0 {
			t.Errorf("%s becomes %s, which has %s twice", stdin, conf, found[0].path)
		}
		for _, word := range not {
			if strings.Contains(string(conf), word) {
				t.Errorf("%s becomes %s, with %s", stdin, conf, word)
			}
		}
	}
}

func handedTo(t *testing.T, c *Config) (out [][]byte) {
	t.Helper()
	if c.Refused != nil {
		return nil
	}
	if c.IPAM != nil {
		conf, err := c.IPAMConfig()
		must(t, err)
		out = append(out, conf)
	}
	if c.Delegate != nil {
		conf, err := c.DelegateConfig(pci, link, 9001)
		must(t, err)
		out = append(out, conf)
	}
	return out
}

// TestManyTwins: faults cost no more time than other text of the same length, and faults
// behind the first ones count too.
func TestManyTwins(t *testing.T) {
	var many strings.Builder
	pairs := 100_000
	if testing.Short() {
		pairs = 1_000
	}
	for i := range pairs {
		fmt.Fprintf(&many, `"a%d":1,"A%d":2,`, i, i)
	}
	stdin := with(`,"args":{` + many.String() + `"a":1},"ipam":{"type":"host-local","dataDir":"/a","DataDir":"/b"}`)
	_, err := Parse([]byte(stdin))
	if err == nil || strings.Count(err.Error(), "in another spelling") != mostTwins {
		t.Errorf("Parse = %.200v; want %d faults", err, mostTwins)
	}
	if found := twins([]byte(stdin), mostTwins); len(found) != mostTwins {
		t.Errorf("%d faults were collected; want %d", len(found), mostTwins)
	}
	if c, err := ParseLenient([]byte(stdin)); err != nil || c.Refused == nil {
		t.Errorf("ParseLenient: %v; want it refused", err)
	}
	if found := twins([]byte(`{"x":1e999,"a":[0,{"b":1,"B":2}]}`), mostTwins); len(found) != 1 || found[0] != (twin{"a[1].B", "B", "b"}) {
		t.Errorf("behind a number beyond float64: %v", found)
	}
}

func TestEdits(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"mtu", "mtu", 0}, {"mtu", "", 3}, {"", "mtu", 3}, {"mtu", "mu", 1}, {"mtu", "mttu", 1}, {"mtu", "mto", 1}, {"amtu", "mtux", 2},
	} {
		if got := edits(tt.a, tt.b); got != tt.want {
			t.Errorf("edits(%q, %q) = %d; want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

type hostLocal struct {
	Name       string `json:"name"`
	CNIVersion string `json:"cniVersion"`
	IPAM       *struct {
		Type       string `json:"type"`
		DataDir    string `json:"dataDir"`
		ResolvConf string `json:"resolvConf"`
	} `json:"ipam"`
}

// FuzzHandedOn: other plugins, which decode their netconf with encoding/json, see the keys
// and values that multi-eni has checked.
func FuzzHandedOn(f *testing.F) {
	f.Add(`"ipam":{"type":"host-local","dataDir":"/a"},"Ipam":{"dataDir":"/b"}`)
	f.Add(`"ipam":{"type":"host-local","subnet":"10.0.0.0/24","resolvConf":"a","RESOLVCONF":"/etc/x"},"args":{"cni":{"ips":["10.0.0.1"]},"CNI":{}}`)
	f.Add(`"ipam":{"type":"host-local","dataDir":"x"},"ipam":{"type":"host-local","type":"static"},"name":"a","Name":"b","delegate":{"type":"macvlan"` +
		`,"mode":"bridge","\u017f":1}`)
	f.Fuzz(func(t *testing.T, keys string) {
		stdin := []byte(with("," + keys))
		strict, err := Parse(stdin)
		lenient, lenientErr := ParseLenient(stdin)
		for c, err := range map[*Config]error{strict: err, lenient: lenientErr} {
			if err != nil {
				continue
			}
			everything := &Policy{}
			if c.IPAM != nil {
				everything.IPAM = []string{c.IPAM.Type}
			}
			if c.Delegate != nil {
				everything.Delegates = []string{c.Delegate.Type}
			}
			for _, conf := range handedTo(t, c) {
				var net hostLocal
				var every types.PluginConf
				if json.Unmarshal(conf, &net) != nil || json.Unmarshal(conf, &every) != nil {
					continue
				}
				if net.Name != c.Name || net.CNIVersion != c.CNIVersion || every.Name != c.Name || len(twins(conf, 1)) > 0 {
					t.Fatalf("%s becomes %s; want name %q, version %q, and each key once", stdin, conf, c.Name, c.CNIVersion)
				}
				if net.IPAM == nil {
					continue
				}
				if c.IPAM == nil || net.IPAM.Type != c.IPAM.Type || every.IPAM.Type != c.IPAM.Type {
					t.Fatalf("%s becomes %s; want ipam.type %+v", stdin, conf, c.IPAM)
				}
				for _, path := range []string{net.IPAM.DataDir, net.IPAM.ResolvConf} {
					if path != "" && (!filepath.IsAbs(path) || everything.Check(c) == nil) {
						t.Fatalf("%s becomes %s, with the path %q", stdin, conf, path)
					}
				}
			}
		}
	})
}
