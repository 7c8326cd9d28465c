package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, want, got any, format string, args ...any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", fmt.Sprintf(format, args...), diff)
	}
}

var sameConfig = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b json.RawMessage) bool { return string(a) == string(b) }),
}

func with(keys string) string {
	var other map[string]any
	_ = json.Unmarshal([]byte("{"+strings.TrimPrefix(keys, ",")+"}"), &other) // text that is no JSON has no other
	text := ""
	for _, own := range []struct{ key, value string }{
		{"cniVersion", `"1.1.0"`}, {"name", `"dataplane"`}, {"type", `"multi-eni"`}, {"select", `{"nodeENI":"dataplane-a"}`},
	} {
		if _, given := other[own.key]; !given {
			text += `,"` + own.key + `":` + own.value
		}
	}
	return "{" + strings.TrimPrefix(text+keys, ",") + "}"
}

func parseOK(t *testing.T, stdin string) *Config {
	t.Helper()
	c, err := Parse([]byte(stdin))
	if err != nil {
		t.Fatalf("Parse(%s): %v", stdin, err)
	}
	return c
}

func TestParseEveryKey(t *testing.T) {
	c := parseOK(t, `{
		"cniVersion": "1.1.0", "name": "dataplane", "type": "multi-eni",
		"select": {"nodeENI": "dataplane-a", "eniID": "eni-0a1b2c3d4e5f60718", "mac": "02:00:00:AB:00:07", "subnetID": "subnet-0a1b2c3d4e5f60718",
			"pciAddress": "0000:00:07.0", "resourceName": "intel.com/sriov_net"},
		"deviceID": "0000:00:07.0", "pciBusID": "0000:00:07.0",
		"delegate": {"type": "ipvlan", "mode": "l2"},
		"ipam": {"type": "host-local", "subnet": "10.0.2.0/24"},
		"mtu": 9001,
		"routes": [{"dst": "10.1.2.3/8", "gw": "10.0.2.1", "mtu": 1500, "advmss": 1400, "priority": 7, "table": 100, "scope": 0}, {"dst": "fd00::/8"}],
		"dns": {"nameservers": ["10.0.0.2"], "domain": "a", "search": ["a"], "options": ["b"]},
		"args": {"cni": {}}, "prevResult": {"cniVersion": "1.1.0"},
		"runtimeConfig": {"deviceID": "0000:00:07.0", "CNIDeviceInfoFile": "/var/run/k8s.cni.cncf.io/devinfo/cni/x.json"},
		"dataDir": "/d", "inventory": "/i", "sysfs": "/s", "logFile": "/l", "logLevel": "debug",
		"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]}`)
	scope := 0
	want := &Config{
		CNIVersion: "1.1.0", Name: "dataplane", DeviceID: "0000:00:07.0", MTU: 9001,
		Select: Select{NodeENI: "dataplane-a", ENIID: "eni-0a1b2c3d4e5f60718", MAC: "02:00:00:ab:00:07", SubnetID: "subnet-0a1b2c3d4e5f60718",
			PCIAddress: "0000:00:07.0", ResourceName: "intel.com/sriov_net"},
		Delegate: &Delegate{Plugin: Plugin{Type: "ipvlan", Raw: []byte(`{"mode":"l2","type":"ipvlan"}`)}, Field: "master", Shared: true},
		IPAM:     &Plugin{Type: "host-local", Raw: []byte(`{"subnet":"10.0.2.0/24","type":"host-local"}`)},
		Routes: []Route{
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), Gateway: netip.MustParseAddr("10.0.2.1"), MTU: 1500, AdvMSS: 1400, Priority: 7, Table: 100, Scope: &scope},
			{Dst: netip.MustParsePrefix("fd00::/8")},
		},
		DNS:  []byte(`{"domain":"a","nameservers":["10.0.0.2"],"options":["b"],"search":["a"]}`),
		Args: []byte(`{"cni":{}}`), PrevResult: []byte(`{"cniVersion":"1.1.0"}`),
		RuntimeConfig:    []byte(`{"CNIDeviceInfoFile":"/var/run/k8s.cni.cncf.io/devinfo/cni/x.json","deviceID":"0000:00:07.0"}`),
		DeviceInfoFile:   "/var/run/k8s.cni.cncf.io/devinfo/cni/x.json",
		Paths:            Paths{DataDir: "/d", Inventory: "/i", Sysfs: "/s", LogFile: "/l", LogLevel: "debug", LeaseDir: "/var/lib/cni/eni-ipam"},
		ValidAttachments: []nodestate.AttachmentID{{ContainerID: "c1", IfName: "net1"}},
		Raw:              c.Raw,
	}
	if diff := cmp.Diff(want, c, sameConfig); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseDefaults(t *testing.T) {
	const stdin = `{"name":"dataplane","select":{"nodeENI":"dataplane-a"},"type":"multi-eni"}`
	want := &Config{
		Name: "dataplane", Select: Select{NodeENI: "dataplane-a"}, Raw: []byte(stdin),
		Paths: Paths{DataDir: "/var/lib/cni/multi-eni", Inventory: "/run/multi-eni/inventory.json", Sysfs: "/sys", LogLevel: "info",
			LeaseDir: "/var/lib/cni/eni-ipam"},
	}
	for name, in := range map[string]string{"absent": stdin, "white space": "\n " + stdin + "\n"} {
		if diff := cmp.Diff(want, parseOK(t, in), sameConfig); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// null, 0 and "" mean that the key is absent.
	c := parseOK(t, with(`,"deviceID":null,"pciBusID":"","delegate":null,"ipam":null,"mtu":0,"routes":null,"dns":null,"args":null,"prevResult":null,
		"runtimeConfig":null,"dataDir":null,"inventory":"","sysfs":null,"logFile":"","logLevel":null`))
	want.Raw, want.CNIVersion = c.Raw, "1.1.0"
	if diff := cmp.Diff(want, c, sameConfig); diff != "" {
		t.Errorf("null (-want +got):\n%s", diff)
	}
	if c := parseOK(t, with(`,"ipam":{}`)); c.IPAM != nil {
		t.Errorf("ipam {} = %+v; want none, as in reference plugins", c.IPAM)
	}
	if c := parseOK(t, with(`,"routes":[{"dst":"10.0.0.0/8","scope":null,"gw":null,"mtu":null}]`)); c.Routes[0].Scope != nil {
		t.Errorf("scope null = %d; want not given", *c.Routes[0].Scope)
	}
}

func TestParseTolerates(t *testing.T) {
	for name, keys := range map[string]string{
		"libcni": `,"cniVersions":["1.0.0","1.1.0"],"capabilities":{"CNIDeviceInfoFile":true},"disableCheck":true,"disableGC":true` +
			`,"loadOnlyInlinedPlugins":true`,
		"editors":       `,"$schema":"https://example.org/netconf.schema.json"`,
		"libcni GC":     `,"cni.dev/valid-attachments":[],"cni.dev/attachments":[]`,
		"libcni result": `,"prevResult":{"cniVersion":"1.1.0","interfaces":[]}`,
		"Multus device": `,"deviceID":"0000:00:07.0","pciBusID":"0000:00:07.0","runtimeConfig":{"deviceID":"0000:00:07.0"}`,
		"Multus args": `,"args":{"cni":{"ips":["10.0.2.9/24"],"mac":"02:00:00:00:00:09","labels":{}}},"ipam":{"type":"host-local"}` +
			`,"runtimeConfig":{"mac":"02:00:00:00:00:09","ips":["10.0.2.9/24"],"bandwidth":{},"portMappings":[],"dns":null}`,
		"another's args": `,"args":{"cni":{"labels":[{"key":"a","value":"b"}]},"org.example":{}}`,
	} {
		if _, err := Parse([]byte(with(keys))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseFaults(t *testing.T) {
	for keys, want := range map[string]string{
		`,"selct":{}`:                       `selct: unknown key (did you mean select?); remove it`,
		`,"data-dir":"/d"`:                  `data-dir: unknown key (did you mean dataDir?); remove it`,
		`,"LOGLEVEL":"info"`:                `LOGLEVEL: unknown key (did you mean logLevel?); remove it`,
		`,"Delegate":{}`:                    `Delegate: unknown key (did you mean delegate?); remove it`,
		`,"IPAM":{"type":"x"}`:              `IPAM: unknown key (did you mean ipam?); remove it`,
		`,"resourceName":"a/b"`:             `resourceName: unknown key (did you mean select.resourceName?); remove it`,
		`,"mac":"x"`:                        `mac: unknown key (did you mean select.mac?); remove it`,
		`,"mode":"l2"`:                      `mode: unknown key; remove it`,
		`,"cni.devil":1`:                    `cni.devil: unknown key; remove it`,
		`,"":1`:                             `: unknown key; remove it`,
		`,"select":{"nodeEni":"a","mtu":1}`: `select.mtu: unknown key; remove it; select.nodeEni: unknown key (did you mean nodeENI?); remove it`,
		`,"routes":[{"dst":"10.0.0.0/8","gateway":"10.0.0.1","prio":1}]`: `routes[0].gateway: unknown key; remove it; routes[0].prio: unknown key; remove it`,
		`,"routes":[{"dst":"10.0.0.0/8","tables":1}]`:                    `routes[0].tables: unknown key (did you mean table?); remove it`,
		`,"cniVersion":1`:                    `cniVersion: 1: want a string`,
		`,"name":{}`:                         `name: {}: want a string`,
		`,"select":"dataplane-a"`:            `select: "dataplane-a": want an object`,
		`,"select":[]`:                       `select: []: want an object`,
		`,"select":{"nodeENI":1,"mac":true}`: `select.mac: true: want a string; select.nodeENI: 1: want a string`,
		`,"deviceID":7`:                      `deviceID: 7: want a string`,
		`,"pciBusID":[]`:                     `pciBusID: []: want a string`,
		`,"delegate":"ipvlan"`:               `delegate: "ipvlan": want an object`,
		`,"ipam":"host-local"`:               `ipam: "host-local": want an object`,
		`,"ipam":{"type":5}`:                 `ipam.type: 5: want a string`,
		`,"mtu":"9001"`:                      `mtu: "9001": want octets between 68 and 65535, or leave it out`,
		`,"mtu":1500.5`:                      `mtu: 1500.5: want octets between 68 and 65535, or leave it out`,
		`,"routes":{}`:                       `routes: {}: want a list`,
		`,"routes":["10.0.0.0/8",null]`:      `routes[0]: "10.0.0.0/8": want an object; routes[1]: null: want an object`,
		`,"routes":[{"dst":1,"gw":2,"mtu":"3"}]`: `routes[0].dst: 1: want a string; routes[0].gw: 2: want a string; routes[0].mtu: "3": want octets between 68 ` +
			`and 65535`,
		`,"dns":"10.0.0.2"`:          `dns: "10.0.0.2": want an object with nameservers, domain, search and options`,
		`,"dns":{"nameservers":"x"}`: `dns: {"nameservers":"x"}: want an object with nameservers, domain, search and options`,
		`,"args":[]`:                 `args: []: want an object`,
		`,"prevResult":"x"`:          `prevResult: "x": want an object`,
		`,"runtimeConfig":[]`:        `runtimeConfig: []: want an object`,
		`,"runtimeConfig":{"deviceID":1,"CNIDeviceInfoFile":2}`: `runtimeConfig.CNIDeviceInfoFile: 2: want a string; runtimeConfig.deviceID: 1: ` +
			`want a string`,
		`,"dataDir":1,"inventory":[],"sysfs":{},"logFile":true,"logLevel":0`: `dataDir: 1: want a string; inventory: []: want a string; logFile: true: want a ` +
			`string; logLevel: 0: want a string; sysfs: {}: want a string`,
		`,"cni.dev/valid-attachments":{}`: `cni.dev/valid-attachments: {}: want a list`,
		`,"cni.dev/valid-attachments":[{"containerID":1},"x"]`: `cni.dev/valid-attachments[0].containerID: 1: want a string; ` +
			`cni.dev/valid-attachments[0].ifname: is missing; each entry needs containerID and ifname; cni.dev/valid-attachments[1]: "x": want an object`,
		`,"args":["` + strings.Repeat("x", 100) + `"]`: `args: ["` + strings.Repeat("x", 58) + `…: want an object`,
	} {
		checkFaults(t, with(keys), "invalid netconf: "+want)
	}
}

// TestParseFaultyValues: a faulty value is named, with the wanted one.
func TestParseFaultyValues(t *testing.T) {
	for keys, want := range map[string]string{
		`,"name":""`:                  `name: is missing; give the network a name`,
		`,"name":"../../etc"`:         `name: "../../etc": want letters, digits, '_', '.' and '-', beginning with a letter or digit`,
		`,"name":null`:                `name: is missing; give the network a name`,
		`,"select":{}`:                `select: names no device; give select.nodeENI, or let the device plugin allocate one (deviceID)`,
		`,"select":{"eniID":"eni-x"}`: `select.eniID: ENI id "eni-x": invalid value: want eni- and 8 or 17 hexadecimal digits, such as eni-0a1b2c3d4e5f60718`,
		`,"select":{"mac":"01:00:5e:0:0:1"}`: `select.mac: MAC address "01:00:5e:0:0:1": invalid value: want six octets of a unicast address, such as ` +
			`02:00:00:00:00:07`,
		`,"select":{"subnetID":"x"}`: `select.subnetID: subnet id "x": invalid value: want subnet- and 8 or 17 hexadecimal digits, such as ` +
			`subnet-0a1b2c3d4e5f60718`,
		`,"select":{"pciAddress":"00:07.0"}`: `select.pciAddress: PCI address "00:07.0": invalid value: want domain:bus:device.function, such as 0000:00:07.0`,
		`,"select":{"resourceName":"x"}`: `select.resourceName: resource name "x": invalid value: want prefix/name with letters, digits, underscores and ` +
			`hyphens in the name, such as intel.com/sriov_net`,
		`,"deviceID":"eth1"`:            `deviceID: PCI address "eth1": invalid value: want domain:bus:device.function, such as 0000:00:07.0`,
		`,"mtu":67`:                     `mtu: 67: want octets between 68 and 65535, or leave it out`,
		`,"mtu":65536`:                  `mtu: 65536: want octets between 68 and 65535, or leave it out`,
		`,"mtu":-1`:                     `mtu: -1: want octets between 68 and 65535, or leave it out`,
		`,"routes":[{"gw":"10.0.0.1"}]`: `routes[0].dst: is missing; give a network such as 10.0.0.0/8`,
		`,"routes":[{"dst":"10.0.0.0/8"},{"dst":"default"}]`: `routes[1].dst: "default": want a network such as 10.0.0.0/8`,
		`,"routes":[{"dst":"10.0.0.0/8","gw":"fe80::1"}]`: `routes[0].gw: fe80::1 is not of the same IP family as routes[0].dst 10.0.0.0/8; give a gateway ` +
			`of that family`,
		`,"routes":[{"dst":"fd00::/8","gw":"fe80::1%eth0"}]`: `routes[0].gw: fe80::1%eth0: want an address without a zone, since the gateway is always on the ` +
			`pod's interface; remove the zone`,
		`,"routes":[{"dst":"fd00::/8","gw":"router"}]`: `routes[0].gw: "router": want an address such as 10.0.0.1`,
		`,"routes":[{"dst":"fd00::/8","mtu":1,"advmss":65536,"priority":-1,"table":-1,"scope":256}]`: `routes[0].advmss: 65536: want octets between 1 and ` +
			`65535; routes[0].mtu: 1: want octets between 68 and 65535; ` +
			`routes[0].priority: -1: want a whole number from 0; routes[0].scope: 256: want a scope from 0 (universe) to 255 (nowhere); routes[0].table: -1: want ` +
			`a route table from 1`,
		`,"dataDir":"relative","inventory":"/a/../b","sysfs":"/sys/","logFile":"./x"`: `dataDir: "relative": want an absolute path without "..", "//" or a ` +
			`slash at the end; inventory: "/a/../b": want an absolute path without "..", "//" or a slash at the end; ` +
			`logFile: "./x": want an absolute path without "..", "//" or a slash at the end; sysfs: "/sys/": want an absolute path without "..", "//" or a slash ` +
			`at the end`,
		`,"logLevel":"loud"`:                           `logLevel: "loud": want one of debug, info, warning, error`,
		`,"runtimeConfig":{"CNIDeviceInfoFile":"x/y"}`: `runtimeConfig.CNIDeviceInfoFile: "x/y": want an absolute path without "..", "//" or a slash at the end`,
		`,"ipam":{"subnet":"10.0.0.0/8"}`:              `ipam.type: "": want the file name of a CNI plugin, such as host-local`,
		`,"ipam":{"type":"../../bin/sh"}`:              `ipam.type: "../../bin/sh": want the file name of a CNI plugin, such as host-local`,
		`,"ipam":{"type":"host-local","Type":"other"}`: `ipam.Type: is type in another spelling, and other plugins may read either one; remove one`,
		`,"ipam":{"type":".hidden"}`:                   `ipam.type: ".hidden": want the file name of a CNI plugin, such as host-local`,
	} {
		checkFaults(t, with(keys), "invalid netconf: "+want)
	}
}

func checkFaults(t *testing.T, stdin, want string) {
	t.Helper()
	c, err := Parse([]byte(stdin))
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		t.Errorf("Parse(%s) = %+v, %v; want %q", stdin, c, err, want)
		return
	}
	equal(t, want, err.Error(), "Parse(%s)", stdin)
	if c, err := ParseLenient([]byte(stdin)); err != nil || c == nil {
		t.Errorf("ParseLenient(%s): %v; want it read for DEL", stdin, err)
	}
}

func TestParseAllFaults(t *testing.T) {
	checkFaults(t, `{"selct":{},"mtu":1,"delegate":{"type":"ipvlan","master":"eth0"},"routes":[{"dst":"x"}],"select":{"mac":"x"}}`,
		`invalid netconf: delegate.master: multi-eni sets it to the selected device; remove it; `+
			`mtu: 1: want octets between 68 and 65535, or leave it out; name: is missing; give the network a name; `+
			`routes[0].dst: "x": want a network such as 10.0.0.0/8; `+
			`selct: unknown key (did you mean select?); remove it; `+
			`select.mac: MAC address "x": invalid value: want six octets of a unicast address, such as 02:00:00:00:00:07`)
}

func TestParseUndecodable(t *testing.T) {
	for _, stdin := range []string{"", " ", "null", "[]", `"x"`, "1", "{", `{"name":}`, "{}{}", `{"name":"a"} x`} {
		for verb, parse := range map[string]func([]byte) (*Config, error){"Parse": Parse, "ParseLenient": ParseLenient} {
			c, err := parse([]byte(stdin))
			var undecodable *DecodeError
			if c != nil || !errors.As(err, &undecodable) || undecodable.Unwrap() == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("decode netconf %q: ", stdin)) {
				t.Errorf("%s(%q) = %v, %v; want a DecodeError", verb, stdin, c, err)
			}
		}
	}
}

// TestClip: a message has at most 60 octets of a text, and no half of a letter.
func TestClip(t *testing.T) {
	a59 := strings.Repeat("a", 59)
	for text, want := range map[string]string{"": "", a59 + "b": a59 + "b", a59 + "bc": a59 + "b…", a59 + "éc": a59 + "…"} {
		if got := clip([]byte(text)); got != want {
			t.Errorf("clip(%q) = %q; want %q", text, got, want)
		}
	}
}

func TestParseLenient(t *testing.T) {
	c, err := ParseLenient([]byte(`{"name":"n","unknown":1,"select":{"mac":"x","nodeENI":"a"},"mtu":1,"dataDir":"x","inventory":"/i","dns":1,"args":1` +
		`,"prevResult":1,
		"runtimeConfig":1,"ipam":{"type":"host-local"},"delegate":{"type":"sriov","deviceField":"master","deviceID":"0000:00:01.0"},
		"routes":[{"dst":"x"},{"dst":"10.0.0.0/8","scope":-1,"mtu":1}],"cni.dev/valid-attachments":null}`))
	must(t, err)
	var refused *InvalidError
	if !errors.As(c.Refused, &refused) || len(refused.Faults) < 10 {
		t.Errorf("Refused = %v, want every fault", c.Refused)
	}
	paths := DefaultPaths()
	paths.Inventory = "/i"
	want := &Config{
		Refused: c.Refused,
		Name:    "n", Select: Select{NodeENI: "a"}, Paths: paths, Raw: c.Raw,
		IPAM: &Plugin{Type: "host-local", Raw: []byte(`{"type":"host-local"}`)},
		Delegate: &Delegate{Plugin: Plugin{Type: "sriov", Raw: []byte(`{"deviceField":"master","deviceID":"0000:00:01.0","type":"sriov"}`)},
			Field: "deviceID"},
		Routes:           []Route{{Dst: netip.MustParsePrefix("10.0.0.0/8")}},
		ValidAttachments: []nodestate.AttachmentID{},
	}
	if diff := cmp.Diff(want, c, sameConfig); diff != "" {
		t.Errorf("ParseLenient (-want +got):\n%s", diff)
	}
	if c, err := ParseLenient([]byte(`{}`)); err != nil || c.Raw == nil {
		t.Errorf("ParseLenient({}) = %+v, %v", c, err)
	}
}

// TestValidAttachments: GC releases attachments that are not in the list, so a faulty list
// must not look short.
func TestValidAttachments(t *testing.T) {
	one := []nodestate.AttachmentID{{ContainerID: "c1", IfName: "net1"}}
	for value, want := range map[string][]nodestate.AttachmentID{
		`null`:                                   {},
		`[]`:                                     {},
		`[{"containerID":"c1","ifname":"net1"}]`: one,
		`[{"containerID":"c1","ifname":"net1","extra":1}]`: one,
		`{}`:   nil,
		`"c1"`: nil,
		`[{"containerID":"c1","ifname":"net1"},null]`:                              nil,
		`[{"containerID":"c1","ifname":"net1"},{"containerID":"c2"}]`:              nil,
		`[{"containerID":"c1","ifname":"net1"},{"containerID":"c2","ifname":5}]`:   nil,
		`[{"containerID":"c1","ifname":"net1"},{"ContainerID":"c2","ifname":"x"}]`: nil,
	} {
		c, err := ParseLenient([]byte(with(`,"cni.dev/valid-attachments":` + value)))
		must(t, err)
		if !slices.Equal(c.ValidAttachments, want) || (c.ValidAttachments == nil) != (want == nil) {
			t.Errorf("%s = %#v; want %#v", value, c.ValidAttachments, want)
		}
	}
	if c := parseOK(t, with("")); c.ValidAttachments != nil {
		t.Errorf("absent = %#v; want nil", c.ValidAttachments)
	}
}

func TestSelect(t *testing.T) {
	row := nodestate.Device{
		NodeENI: "dataplane-a", ENIID: "eni-1a2b3c4d", MAC: "02:00:00:00:00:07", SubnetID: "subnet-1a2b3c4d",
		PCIAddress: "0000:00:07.0", ResourceName: "intel.com/sriov_net",
	}
	full := Select{row.NodeENI, row.ENIID, row.MAC, row.SubnetID, row.PCIAddress, row.ResourceName}
	if got, want := full.String(), "nodeENI=dataplane-a eniID=eni-1a2b3c4d mac=02:00:00:00:00:07 subnetID=subnet-1a2b3c4d pciAddress=0000:00:07.0 "+
		"resourceName=intel.com/sriov_net"; got != want {
		t.Errorf("String = %s; want %s", got, want)
	}
	if (Select{}).String() != "" || !(Select{}).Empty() || full.Empty() || !(Select{}).Matches(row) {
		t.Error("the zero Select is empty and matches everything")
	}
	// Each key alone, each pair, with and without a value that does not match.
	set := []func(*Select, bool){
		func(s *Select, ok bool) { s.NodeENI = pick(ok, row.NodeENI, "dataplane-b") },
		func(s *Select, ok bool) { s.ENIID = pick(ok, row.ENIID, device.ENIID("eni-00000000")) },
		func(s *Select, ok bool) { s.MAC = pick(ok, row.MAC, device.MAC("02:00:00:00:00:08")) },
		func(s *Select, ok bool) { s.SubnetID = pick(ok, row.SubnetID, device.SubnetID("subnet-00000000")) },
		func(s *Select, ok bool) { s.PCIAddress = pick(ok, row.PCIAddress, device.PCIAddress("0000:00:08.0")) },
		func(s *Select, ok bool) {
			s.ResourceName = pick(ok, row.ResourceName, device.ResourceName("intel.com/x"))
		},
	}
	for i := range set {
		for j := range set {
			for _, ok := range []bool{true, false} {
				var s Select
				set[i](&s, true)
				set[j](&s, ok)
				if s.Empty() || s.Matches(row) != ok {
					t.Errorf("select %s matches: %t, want %t", s, s.Matches(row), ok)
				}
				if ok && s.Matches(nodestate.Device{}) {
					t.Errorf("select %s matches a device of which nothing is known", s)
				}
			}
		}
	}
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}
