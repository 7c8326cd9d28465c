package main

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for name, tt := range map[string]struct{ in, fault string }{
		"all": {`{"cniVersion":"1.1.0","name":"n","type":"sriov","deviceID":"0000:01:10.0","vlan":8,` +
			`"mac":"02:00:00:00:00:01","spoofchk":"off","trust":"on","ipam":{"type":"static"},"runtimeConfig":{}}`, ""},
		"no VLAN":          {`{"deviceID":"0000:01:10.0"}`, ""},
		"no device":        {`{"vlan":8}`, "deviceID"},
		"a key of another": {`{"deviceID":"0000:01:10.0","master":"eth1"}`, "master"},
		"VLAN too high":    {`{"deviceID":"0000:01:10.0","vlan":4095}`, "vlan: 4095"},
		"VLAN below 0":     {`{"deviceID":"0000:01:10.0","vlan":-1}`, "vlan: -1"},
		"spoofchk":         {`{"deviceID":"0000:01:10.0","spoofchk":"yes"}`, `spoofchk: "yes"`},
		"trust":            {`{"deviceID":"0000:01:10.0","trust":"true"}`, `trust: "true"`},
		"MAC":              {`{"deviceID":"0000:01:10.0","mac":"02:00"}`, "mac"},
		"ipam":             {`{"deviceID":"0000:01:10.0","ipam":[]}`, "ipam"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(tt.in))
			if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("parse = %v; want a fault of %q", err, tt.fault)
			}
		})
	}
}
