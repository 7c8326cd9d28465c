package netconf

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	pci  = device.PCIAddress("0000:00:07.0")
	link = "ens7"
)

const inherited = `,"deviceID":"0000:00:07.0","ipam":{"type":"host-local","subnet":"10.0.2.0/24"},"args":{"cni":{}},"dns":{"domain":"a"},
	"prevResult":{"cniVersion":"1.1.0"},"runtimeConfig":{"deviceID":"0000:00:07.0","CNIDeviceInfoFile":"/run/x.json","mac":"02:00:00:00:00:09"}`

func TestDelegateConfig(t *testing.T) {
	for name, tt := range map[string]struct {
		delegate          string
		shared, needsLink bool
	}{
		"ipvlan":                {`{"type":"ipvlan","mode":"l2"}`, true, true},
		"ipvlan-own-mtu":        {`{"type":"ipvlan","mtu":1400}`, true, true},
		"macvlan":               {`{"type":"macvlan","mode":"passthru"}`, true, true},
		"vlan":                  {`{"type":"vlan","vlanId":5}`, true, true},
		"host-device":           {`{"type":"host-device"}`, false, false},
		"host-device-by-device": {`{"type":"host-device","deviceField":"device"}`, false, true},
		"sriov":                 {`{"type":"sriov","vlan":5,"trust":"on"}`, false, false},
		"other":                 {`{"type":"other","deviceField":"deviceID"}`, false, false},
		"other-by-link":         {`{"type":"other","deviceField":"master"}`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := parseOK(t, with(inherited+`,"delegate":`+tt.delegate))
			if c.Delegate.Shared != tt.shared || c.Delegate.NeedsLink() != tt.needsLink {
				t.Errorf("shared %t, needs link %t; want %t, %t", c.Delegate.Shared, c.Delegate.NeedsLink(), tt.shared, tt.needsLink)
			}
			got, err := c.DelegateConfig(pci, link, 9001)
			must(t, err)
			compareGolden(t, name, got)
			checkDelegateDevice(t, c, got)
		})
	}
}

func TestDelegateConfigForGC(t *testing.T) {
	for name, delegate := range map[string]string{"gc-ipvlan": `{"type":"ipvlan"}`, "gc-host-device": `{"type":"host-device"}`} {
		c, err := ParseLenient([]byte(with(inherited + `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"net1"}],"delegate":` + delegate)))
		must(t, err)
		got, err := c.DelegateConfig("", "", 0)
		must(t, err)
		compareGolden(t, name, got)
	}
	c := parseOK(t, `{"cniVersion":"1.0.0","name":"n","select":{"nodeENI":"a"},"delegate":{"type":"vlan"}}`)
	got, err := c.DelegateConfig("", "", 0)
	if want := `{"cniVersion":"1.0.0","name":"n","type":"vlan"}`; err != nil || string(got) != want {
		t.Errorf("DelegateConfig = %s, %v; want nothing but %s", got, err, want)
	}
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, got, "", "  "); err != nil {
		t.Fatalf("%s is not JSON: %v", got, err)
	}
	pretty.WriteByte('\n')
	golden := filepath.Join("testdata", name+".golden.json")
	if *update {
		must(t, os.WriteFile(golden, pretty.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	equal(t, string(want), pretty.String(), "%s", golden)
}

// checkDelegateDevice reads a delegate's netconf as delegates do, with a struct, for which
// the case of keys does not matter.
func checkDelegateDevice(t *testing.T, c *Config, conf []byte) {
	t.Helper()
	type fields struct {
		Master, Device, DeviceID, PCIBusID, HWAddr, KernelPath string
		LinkInContainer                                        bool
	}
	var got struct {
		fields
		Type          string
		IPAM          struct{ Type string }
		RuntimeConfig struct{ DeviceID string }
	}
	if err := json.Unmarshal(conf, &got); err != nil {
		t.Fatalf("a delegate cannot read %s: %v", conf, err)
	}
	var want fields
	switch c.Delegate.Field {
	case "master":
		want.Master = link
	case "device":
		want.Device = link
	case "deviceID":
		want.DeviceID = pci.String()
	case "pciBusID":
		want.PCIBusID = pci.String()
	}
	equal(t, want, got.fields, "the device in %s", conf)
	if id := got.RuntimeConfig.DeviceID; id != "" && !strings.EqualFold(id, pci.String()) {
		t.Errorf("runtimeConfig.deviceID %q in %s; want %s or none", id, conf, pci)
	}
	ipam := ""
	if c.IPAM != nil {
		ipam = c.IPAM.Type
	}
	if got.Type != c.Delegate.Type || got.IPAM.Type != ipam {
		t.Errorf("type %q, ipam.type %q in %s; want %q, %q", got.Type, got.IPAM.Type, conf, c.Delegate.Type, ipam)
	}
}

// TestDelegateRuntimeConfig: runtimeConfig.deviceID must not name another device, since
// host-device prefers it to its own keys.
func TestDelegateRuntimeConfig(t *testing.T) {
	for runtime, want := range map[string]string{
		`{"deviceID":"0000:00:07.0"}`:                 `{"deviceID":"0000:00:07.0"}`,
		`{"deviceID":"0000:00:08.0"}`:                 `{}`,
		`{"DeviceID":"0000:00:08.0","mtu":"x"}`:       `{"mtu":"x"}`,
		`{"mac":"02:00:00:AB:00:07"}`:                 `{"mac":"02:00:00:ab:00:07"}`,
		`{"DEVICEID":"0000:00:07.0"}`:                 `{}`,
		`{"cnideviceinfofile":"/x","a":["a"]}`:        `{"a":["a"]}`,
		`{"deviceID":"0000:00:07.0","devıceID":"no"}`: `{"deviceID":"0000:00:07.0","devıceID":"no"}`, // a letter that no case folds to i
	} {
		c := parseOK(t, with(`,"delegate":{"type":"other","deviceField":"pciBusID"},"runtimeConfig":`+runtime))
		conf, err := c.DelegateConfig(pci, link, 0)
		must(t, err)
		var got struct{ RuntimeConfig json.RawMessage }
		if err := json.Unmarshal(conf, &got); err != nil || string(got.RuntimeConfig) != want {
			t.Errorf("%s becomes %s, %v; want %s", runtime, got.RuntimeConfig, err, want)
		}
	}
}

func TestDelegateFaults(t *testing.T) {
	for delegate, want := range map[string]string{
		`{}`:             `delegate.type: "": want the file name of a CNI plugin, such as host-local`,
		`{"type":"a/b"}`: `delegate.type: "a/b": want the file name of a CNI plugin, such as host-local`,
		`{"type":"bridge"}`: `delegate.deviceField: is missing; name the key by which bridge takes its device: deviceID or pciBusID (PCI address), master or ` +
			`device (interface name)`,
		`{"type":"bridge","deviceField":"bridge"}`: `delegate.deviceField: "bridge": want one of device, deviceID, master, pciBusID`,
		`{"type":"bridge","deviceField":1}`:        `delegate.deviceField: 1: want a string`,
		`{"type":"ipvlan","deviceField":"device"}`: `delegate.deviceField: "device": ipvlan takes its device by the key master; remove deviceField`,
		`{"type":"host-device","deviceField":"master"}`: `delegate.deviceField: "master": host-device takes its device by the key pciBusID or device; remove ` +
			`deviceField`,
		`{"type":"sriov","deviceField":"device"}`:   `delegate.deviceField: "device": sriov takes its device by the key deviceID; remove deviceField`,
		`{"type":"ipvlan","Type":"x"}`:              `delegate.Type: is type in another spelling, and other plugins may read either one; remove one`,
		`{"type":"ipvlan","mode":"l2","mode":"l3"}`: `delegate.mode: is given twice; remove one`,
		`{"Type":"ipvlan"}`: `delegate.Type: unknown key (did you mean type?); remove it; delegate.type: "": want the file name of ` +
			`a CNI plugin, such as host-local`,
	} {
		checkFaults(t, with(`,"delegate":`+delegate), "invalid netconf: "+want)
	}
	fold := []func(string) string{
		func(s string) string { return s }, strings.ToUpper, strings.ToLower,
		func(s string) string { return strings.NewReplacer("k", "\u212a", "s", "\u017f").Replace(s) }, // Kelvin sign, long s
	}
	for _, f := range fold {
		for _, key := range reservedDeviceKeys {
			checkFaults(t, with(`,"delegate":{"type":"host-device","`+f(key)+`":"x"}`),
				"invalid netconf: delegate."+f(key)+": multi-eni sets it to the selected device; remove it")
		}
		for _, key := range inheritedKeys {
			checkFaults(t, with(`,"delegate":{"type":"host-device","`+f(key)+`":{}}`),
				"invalid netconf: delegate."+f(key)+": the delegate inherits it; write it beside delegate, not inside")
		}
	}
}

func TestPassthru(t *testing.T) {
	for delegate, want := range map[string]bool{
		`{"type":"macvlan","mode":"passthru"}`: true,
		`{"type":"macvlan","MODE":"passthru"}`: true, // as macvlan reads it
		`{"type":"macvlan","mode":"bridge"}`:   false,
		`{"type":"macvlan"}`:                   false,
		`{"type":"macvlan","mode":5}`:          false,
	} {
		if got := parseOK(t, with(`,"delegate":`+delegate)).Delegate.Passthru(); got != want {
			t.Errorf("Passthru of %s = %t; want %t", delegate, got, want)
		}
	}
}

func TestReleasesAddresses(t *testing.T) {
	for delegate, want := range map[string]bool{"ipvlan": true, "macvlan": true, "vlan": true, "host-device": false, "sriov": false, "other": false} {
		if got := ReleasesAddresses(delegate); got != want {
			t.Errorf("ReleasesAddresses(%s) = %t; want %t", delegate, got, want)
		}
	}
}

// TestTakesPrevResult: ipvlan reads prevResult, and a plugin that is not known may. With
// eni-ipam, prevResult has the addresses.
func TestTakesPrevResult(t *testing.T) {
	for keys, want := range map[string]bool{
		``:                                   false,
		`,"delegate":{"type":"ipvlan"}`:      true,
		`,"delegate":{"type":"macvlan"}`:     false,
		`,"delegate":{"type":"host-device"}`: false,
		`,"delegate":{"type":"other","deviceField":"device"}`:       true,
		`,"delegate":{"type":"ipvlan"},"ipam":{"type":"eni-ipam"}`:  false,
		`,"delegate":{"type":"macvlan"},"ipam":{"type":"eni-ipam"}`: false,
	} {
		if got := parseOK(t, with(keys)).TakesPrevResult(); got != want {
			t.Errorf("TakesPrevResult of %s = %t; want %t", keys, got, want)
		}
	}
}

// TestShares: only with a delegate that shares it, pods share a device.
func TestShares(t *testing.T) {
	for keys, want := range map[string]bool{``: false, `,"delegate":{"type":"ipvlan"}`: true, `,"delegate":{"type":"host-device"}`: false} {
		if got := parseOK(t, with(keys)).Shares(); got != want {
			t.Errorf("Shares of %s = %t; want %t", keys, got, want)
		}
	}
}

func TestIPAMConfig(t *testing.T) {
	for keys, want := range map[string]string{
		``:                           `{"cniVersion":"1.1.0","ipam":{"type":"host-local"},"name":"n","type":"multi-eni"}`,
		`,"deviceID":"0000:00:07.0"`: `{"cniVersion":"1.1.0","deviceID":"0000:00:07.0","ipam":{"type":"host-local"},"name":"n","type":"multi-eni"}`,
	} {
		c := parseOK(t, `{"cniVersion":"1.1.0","name":"n","select":{"nodeENI":"a"},"ipam":{"type":"host-local"}`+keys+`}`)
		if got, err := c.IPAMConfig(); err != nil || string(got) != want {
			t.Errorf("IPAMConfig of %s = %s, %v; want %s", keys, got, err, want)
		}
	}
}

func TestWithPrevResult(t *testing.T) {
	for _, tt := range []struct{ conf, prev, want string }{
		{`{"type":"x"}`, `{"ips":[]}`, `{"prevResult":{"ips":[]},"type":"x"}`},
		{`{"type":"x","prevResult":{}}`, `{"ips":[]}`, `{"prevResult":{"ips":[]},"type":"x"}`},
		{`{"type":"x","prevResult":{}}`, ``, `{"prevResult":{},"type":"x"}`},
		{`{"type":"x"}`, ``, `{"type":"x"}`},
		{`[]`, `{}`, ``},
	} {
		var prev json.RawMessage
		if tt.prev != "" {
			prev = json.RawMessage(tt.prev)
		}
		if got, err := WithPrevResult(json.RawMessage(tt.conf), prev); string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("WithPrevResult(%s, %s) = %s, %v; want %s", tt.conf, tt.prev, got, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(with(inherited)))
	for _, delegate := range []string{`{"type":"ipvlan"}`, `{"type":"host-device","deviceField":"device"}`,
		`{"type":"x","deviceField":"deviceID","Device":"eth0"}`} {
		f.Add([]byte(with(inherited + `,"delegate":` + delegate)))
	}
	f.Add([]byte(with(`,"mtu":9001,"routes":[{"dst":"10.0.0.0/8","gw":"10.0.0.1","scope":0}],"dataDir":"/d","cni.dev/valid-attachments":null`)))
	f.Add([]byte(with(`,"ipam":{"type":"eni-ipam","addresses":"all","families":["ipv6"],"routes":[{"dst":"10.0.0.0/8"}]}` +
		`,"runtimeConfig":{"ips":["10.0.2.15/24"]}`)))
	own := nodestate.Device{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fd00::15/64")}}
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := Parse(stdin)
		lenient, lenientErr := ParseLenient(stdin)
		if err != nil {
			return
		}
		if diff := cmp.Diff(c, lenient, sameConfig); diff != "" || lenientErr != nil {
			t.Fatalf("ParseLenient of what Parse accepts: %v (-strict +lenient):\n%s", lenientErr, diff)
		}
		again, err := Parse(c.Raw)
		if diff := cmp.Diff(c, again, sameConfig); diff != "" || err != nil {
			t.Fatalf("Parse of the recorded netconf: %v (-first +second):\n%s", err, diff)
		}
		if c.ENIIPAM != nil {
			picked, err := c.ENIIPAM.Pick(own)
			for _, p := range picked {
				if !slices.Contains(own.Addresses, p) || err != nil {
					t.Fatalf("Pick = %v, %v; the ENI has %v", picked, err, own.Addresses)
				}
			}
		}
		if c.Delegate == nil {
			return
		}
		conf, err := c.DelegateConfig(pci, link, 9001)
		must(t, err)
		checkDelegateDevice(t, c, conf)
	})
}
