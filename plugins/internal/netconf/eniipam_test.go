package netconf

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestENIIPAMFaults(t *testing.T) {
	for ipam, want := range map[string]string{
		`"adresses":"all"`:                               `ipam.adresses: unknown key (did you mean addresses?); remove it`,
		`"addresses":"some"`:                             `ipam.addresses: "some": want one of one, all`,
		`"families":[]`:                                  `ipam.families: []: want a list of "ipv4" and "ipv6", each once, or leave it out`,
		`"families":["ipv4","ipv4"]`:                     `ipam.families: ["ipv4","ipv4"]: want a list of "ipv4" and "ipv6", each once, or leave it out`,
		`"families":["ipv5"]`:                            `ipam.families: ["ipv5"]: want a list of "ipv4" and "ipv6", each once, or leave it out`,
		`"routes":[{"gw":"10.0.0.1"}]`:                   `ipam.routes[0].dst: is missing; give a network such as 10.0.0.0/8`,
		`"routes":[{"dst":"::/0"}]`:                      `ipam.routes[0].gw: is missing, and the VPC's IPv6 router is not known by address; give it, or leave the route out: the router announces itself`,
		`"x":1},"runtimeConfig":{"ips":"10.0.1.1"`:       `runtimeConfig.ips: "10.0.1.1": want a list of addresses such as 10.0.1.15/24`,
		`"x":1},"runtimeConfig":{"ips":["here"]`:         `runtimeConfig.ips[0]: "here": want an address such as 10.0.1.15/24`,
		`"x":1},"delegate":{"type":"vlan"`:               `ipam.type: "eni-ipam": the VPC carries no VLANs, and so does not deliver the ENI's addresses in one; use ipvlan, or another IPAM plugin`,
		`"addresses":"all"},"delegate":{"type":"ipvlan"`: `ipam.addresses: "all" is for a pod that has the ENI to itself; with delegate ipvlan leave it out`,
		`"coolDown":"30s"`:                               `ipam.coolDown: "30s": want seconds between 0 and 3600`,
		`"coolDown":-1`:                                  `ipam.coolDown: -1: want seconds between 0 and 3600`,
		`"dataDir":"leases"`:                             `ipam.dataDir: "leases": want a clean absolute path`,
		`"routes":[{"dst":"vpc","gw":"fd00::1"}]`:        `ipam.routes[0].gw: fd00::1 is not of the family of routes[0].dst vpc`,
		`"select":{}`:                                    `ipam.select: unknown key; remove it`,
	} {
		_, err := Parse([]byte(with(`,"ipam":{"type":"eni-ipam",` + ipam + `}`)))
		var invalid *InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v", ipam, err)
			continue
		}
		if !slices.ContainsFunc(invalid.Faults, func(f Fault) bool { return f.Path+": "+f.Problem == want }) {
			t.Errorf("%s: %v, want %q", ipam, err, want)
		}
	}
}

func TestENIIPAMPick(t *testing.T) {
	device := func(addresses ...string) nodestate.Device {
		d := nodestate.Device{ENIID: "eni-00000001"}
		for _, a := range addresses {
			d.Addresses = append(d.Addresses, netip.MustParsePrefix(a))
		}
		return d
	}
	full := device("10.0.1.15/24", "10.0.1.16/24", "fd00::15/64", "fd00::16/64")
	for name, tt := range map[string]struct {
		ipam string
		of   nodestate.Device
		want []string
	}{
		"default":       {``, full, []string{"10.0.1.15/24"}},
		"all":           {`,"addresses":"all"`, full, []string{"10.0.1.15/24", "10.0.1.16/24"}},
		"all of both":   {`,"addresses":"all","families":["ipv4","ipv6"]`, full, []string{"10.0.1.15/24", "10.0.1.16/24", "fd00::15/64", "fd00::16/64"}},
		"IPv6":          {`,"families":["ipv6"]`, full, []string{"fd00::15/64"}},
		"only IPv6":     {``, device("fd00::15/64"), []string{"fd00::15/64"}},
		"none yet":      {``, device(), nil},
		"lacking":       {`,"families":["ipv4","ipv6"]`, device("10.0.1.15/24"), nil},
		"asked":         {`},"runtimeConfig":{"ips":["fd00::16/64","10.0.1.16","10.0.1.16/24"]`, full, []string{"fd00::16/64", "10.0.1.16/24"}},
		"asked foreign": {`},"runtimeConfig":{"ips":["10.0.1.16","10.0.1.17"]`, full, nil},
	} {
		c := parseOK(t, with(`,"ipam":{"type":"eni-ipam"`+tt.ipam+`}`))
		if c.IPAM != nil {
			t.Errorf("%s: an IPAM plugin %v", name, c.IPAM)
		}
		picked, err := c.ENIIPAM.Pick(tt.of)
		var got []string
		for _, p := range picked {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" || (err == nil) != (tt.want != nil) {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// TestENIIPAMUnderAPolicy: it is one of the types that a policy lists.
func TestENIIPAMUnderAPolicy(t *testing.T) {
	c := parseOK(t, with(`,"ipam":{"type":"eni-ipam"}`))
	if err := (&Policy{IPAM: []string{"host-local"}}).CheckTypes(c); err == nil {
		t.Error("allowed by a policy that does not list it")
	}
	if err := (&Policy{IPAM: []string{ENIIPAMType}}).CheckTypes(c); err != nil {
		t.Error(err)
	}
}
