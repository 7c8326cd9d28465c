package netconf

import (
	"testing"
)

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
