package netconf

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var requests = map[string]string{
	"deviceID": `"0000:00:07.0"`, "CNIDeviceInfoFile": `"/run/x"`, "mac": `"02:00:00:00:00:09"`, "ips": `["10.0.2.9/24"]`,
	"ipRanges":  `[[{"subnet":"10.0.2.0/24"}]]`,
	"bandwidth": `{"ingressRate":1}`, "portMappings": `[{"hostPort":80}]`, "infinibandGUID": `"x"`, "dns": `{"servers":["10.0.0.2"]}`, "aliases": `["a"]`,
	"cgroupPath": `"/x"`, "io.kubernetes.cri.pod-annotations": `{"a":"b"}`, "DeviceID": `"0000:00:07.0"`, "MAC": `"02:00:00:00:00:09"`,
}

// TestCapabilities: every capability is taken by a plugin that takes it or may take it, or
// is refused.
func TestCapabilities(t *testing.T) {
	parts := map[string]string{"": ""}
	for typ := range takers {
		switch _, delegate := knownDelegates[typ]; {
		case delegate:
			parts[typ] = `,"delegate":{"type":"` + typ + `"}`
		case typ != Type:
			parts[typ] = `,"ipam":{"type":"` + typ + `"}`
		}
	}
	for typ, part := range parts {
		for key, value := range requests {
			taken := slices.Contains(takers[Type].capabilities, key) || slices.Contains(takers[typ].capabilities, key)
			checkTaken(t, with(part+fmt.Sprintf(`,"runtimeConfig":{%q:%s}`, key, value)), "runtimeConfig."+key, taken)
			if key == "mac" || key == "ips" {
				taken = slices.Contains(takers[Type].args, key) || slices.Contains(takers[typ].args, key)
				checkTaken(t, with(part+fmt.Sprintf(`,"args":{"cni":{%q:%s}}`, key, value)), "args.cni."+key, taken)
			}
		}
		for _, key := range []string{"IP", "MAC", "GATEWAY"} {
			c := parseOK(t, with(part))
			taken := slices.Contains(takers[Type].environment, key) || slices.Contains(takers[typ].environment, key)
			if err := c.CheckArgs(map[string]string{key: "x", "K8S_POD_NAME": "y"}); (err == nil) != taken {
				t.Errorf("CNI_ARGS %s with %s: %v; want it taken: %t", key, part, err, taken)
			}
		}
	}
	for _, part := range []string{`,"delegate":{"type":"other","deviceField":"device"}`, `,"ipam":{"type":"other"}`} {
		for key, value := range requests {
			checkTaken(t, with(part+fmt.Sprintf(`,"runtimeConfig":{%q:%s}`, key, value)), "runtimeConfig."+key, true)
		}
	}
}

func checkTaken(t *testing.T, stdin, path string, taken bool) {
	t.Helper()
	_, err := Parse([]byte(stdin))
	refused := regexp.MustCompile(regexp.QuoteMeta(path) + `: .*: no plugin of this netconf uses it \(multi-eni`)
	if taken && err != nil || !taken && (err == nil || !refused.MatchString(err.Error())) {
		t.Errorf("Parse(%s) = %v; want it taken: %t", stdin, err, taken)
	}
}

func TestTakersAreComplete(t *testing.T) {
	for typ := range knownDelegates {
		if _, ok := takers[typ]; !ok {
			t.Errorf("%s is missing", typ)
		}
	}
}

func TestRequested(t *testing.T) {
	const a, b = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
	for keys, want := range map[string]string{
		``:                                     "",
		`,"runtimeConfig":{"mac":""}`:          "",
		`,"runtimeConfig":{"mac":"` + a + `"}`: a,
		`,"args":{"cni":{"mac":"` + a + `"}}`:  a,
		`,"args":{"cni":{"mac":"02:00:00:00:00:0A"}},"runtimeConfig":{"mac":"` + a + `"}`:   a,
		`,"delegate":{"type":"macvlan","mac":"` + a + `"}`:                                  a,
		`,"delegate":{"type":"sriov","MAC":"` + a + `"},"args":{"cni":{"mac":"` + a + `"}}`: a,
		`,"delegate":{"type":"other","deviceField":"device","mac":"what it may mean"}`:      "",
	} {
		if c := parseOK(t, with(keys)); c.MAC.String() != want {
			t.Errorf("%s: MAC %q; want %q", keys, c.MAC, want)
		}
	}
	for keys, want := range map[string]string{
		`,"args":{"cni":{"mac":"` + b + `"}},"runtimeConfig":{"mac":"` + a + `"}`:            "args.cni.mac: " + b + ", but runtimeConfig.mac is " + a,
		`,"delegate":{"type":"sriov","mac":"` + b + `"},"runtimeConfig":{"mac":"` + a + `"}`: "delegate.mac: " + b + ", but runtimeConfig.mac is " + a,
		`,"runtimeConfig":{"mac":"x"}`:                        `runtimeConfig.mac: MAC address "x"`,
		`,"args":{"cni":{"mac":1}}`:                           `args.cni.mac: 1: want a string`,
		`,"args":{"cni":{"ips":"10.0.0.1"}}`:                  `args.cni.ips: "10.0.0.1": want a list of addresses`,
		`,"args":{"cni":7}`:                                   `args.cni: 7: want an object`,
		`,"mtu":1500,"delegate":{"type":"ipvlan","MTU":1400}`: "mtu: 1500, but delegate has an mtu of its own",
	} {
		if _, err := Parse([]byte(with(keys))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", keys, err, want)
		}
	}
	c := parseOK(t, with(`,"ipam":{"type":"eni-ipam"},"runtimeConfig":{"ips":["10.0.2.9/24","10.0.2.8"]},"args":{"cni":{"ips":["10.0.2.9","10.0.2.7"]}}`))
	want := []netip.Addr{netip.MustParseAddr("10.0.2.9"), netip.MustParseAddr("10.0.2.8"), netip.MustParseAddr("10.0.2.7")}
	if !slices.Equal(c.IPs, want) || !slices.Equal(c.ENIIPAM.Requested, want) {
		t.Errorf("addresses %v, eni-ipam's %v; want %v", c.IPs, c.ENIIPAM.Requested, want)
	}
}

func TestDeviceID(t *testing.T) {
	for name, tt := range map[string]struct{ keys, want, fault string }{
		"none":                {`,"select":{"nodeENI":"a"}`, "", ""},
		"deviceID":            {`,"deviceID":"0000:00:07.0"`, "0000:00:07.0", ""},
		"pciBusID":            {`,"pciBusID":"0000:00:07.0"`, "0000:00:07.0", ""},
		"runtimeConfig":       {`,"runtimeConfig":{"deviceID":"0000:00:07.0"}`, "0000:00:07.0", ""},
		"all, in either case": {`,"deviceID":"0000:AF:07.0","pciBusID":"0000:af:07.0","runtimeConfig":{"deviceID":"0000:Af:07.0"}`, "0000:af:07.0", ""},
		"select agrees":       {`,"deviceID":"0000:AF:07.0","select":{"pciAddress":"0000:af:07.0"}`, "0000:af:07.0", ""},
		"deviceID disagrees": {`,"deviceID":"0000:00:08.0","runtimeConfig":{"deviceID":"0000:00:07.0"}`, "0000:00:07.0",
			`deviceID: 0000:00:08.0, but runtimeConfig.deviceID is 0000:00:07.0; they must name the same device, so remove one`},
		"pciBusID disagrees": {`,"deviceID":"0000:00:07.0","pciBusID":"0000:00:08.0"`, "0000:00:07.0",
			`pciBusID: 0000:00:08.0, but deviceID is 0000:00:07.0; they must name the same device, so remove one`},
		"all disagree": {`,"deviceID":"0000:00:08.0","pciBusID":"0000:00:09.0","runtimeConfig":{"deviceID":"0000:00:07.0"}`, "0000:00:07.0",
			`deviceID: 0000:00:08.0, but runtimeConfig.deviceID is 0000:00:07.0; they must name the same device, so remove one; pciBusID: 0000:00:09.0, but ` +
				`runtimeConfig.deviceID is 0000:00:07.0; they must name the same device, so remove one`},
		"select disagrees": {`,"deviceID":"0000:00:07.0","select":{"pciAddress":"0000:00:08.0"}`, "0000:00:07.0",
			`select.pciAddress: 0000:00:08.0, but the runtime allocated 0000:00:07.0; remove one of them`},
		"the first is faulty": {`,"deviceID":"0000:00:07.0","runtimeConfig":{"deviceID":"x"}`, "0000:00:07.0",
			`runtimeConfig.deviceID: PCI address "x": invalid value: want domain:bus:device.function, such as 0000:00:07.0`},
		"no other fault of it": {`,"deviceID":"x"`, "", `deviceID: PCI address "x": invalid value: want domain:bus:device.function, such as 0000:00:07.0`},
	} {
		t.Run(name, func(t *testing.T) {
			stdin := `{"name":"n","type":"multi-eni"` + tt.keys + `}`
			c, err := ParseLenient([]byte(stdin))
			if err != nil || c.DeviceID.String() != tt.want {
				t.Errorf("ParseLenient: %q, %v; want %q", c.DeviceID, err, tt.want)
			}
			if tt.fault != "" {
				checkFaults(t, stdin, "invalid netconf: "+tt.fault)
			} else if c := parseOK(t, stdin); c.DeviceID.String() != tt.want {
				t.Errorf("Parse: %q; want %q", c.DeviceID, tt.want)
			}
		})
	}
}

func TestPathKeys(t *testing.T) {
	for keys, want := range map[string]map[string]string{
		"":                                  {},
		`,"dataDir":"","sysfs":null`:        {},
		`,"dataDir":"/d","logLevel":"info"`: {"dataDir": "/d", "logLevel": "info"},
		`,"inventory":"/i","sysfs":"/s","logFile":"/l"`: {"inventory": "/i", "sysfs": "/s", "logFile": "/l"},
	} {
		equal(t, want, parseOK(t, with(keys)).PathKeys(), "PathKeys of %s", keys)
	}
}
