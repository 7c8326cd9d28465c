package netconf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestENIIPAMFaults(t *testing.T) {
	for ipam, want := range map[string]string{
		`"adresses":"all"`:             `ipam.adresses: unknown key (did you mean addresses?); remove it`,
		`"addresses":"some"`:           `ipam.addresses: "some": want one of one, all`,
		`"families":[]`:                `ipam.families: []: want a list of "ipv4" and "ipv6", each once, or leave it out`,
		`"families":["ipv4","ipv4"]`:   `ipam.families: ["ipv4","ipv4"]: want a list of "ipv4" and "ipv6", each once, or leave it out`,
		`"families":["ipv5"]`:          `ipam.families: ["ipv5"]: want a list of "ipv4" and "ipv6", each once, or leave it out`,
		`"routes":[{"gw":"10.0.0.1"}]`: `ipam.routes[0].dst: is missing; give a network such as 10.0.0.0/8`,
		`"routes":[{"dst":"::/0"}]`: `ipam.routes[0].gw: is missing, and the VPC's IPv6 router has no fixed address; give gw, or remove ` +
			`the route: the router announces itself`,
		`"x":1},"runtimeConfig":{"ips":"10.0.1.1"`: `runtimeConfig.ips: "10.0.1.1": want a list of addresses such as 10.0.1.15/24`,
		`"x":1},"runtimeConfig":{"ips":["here"]`:   `runtimeConfig.ips[0]: "here": want an address such as 10.0.1.15/24`,
		`"x":1},"delegate":{"type":"vlan"`: `ipam.type: "eni-ipam": the VPC does not deliver the ENI's addresses inside a VLAN; use delegate ` +
			`ipvlan, or another IPAM plugin`,
		`"addresses":"all"},"delegate":{"type":"ipvlan"`: `ipam.addresses: "all" is for a pod that owns the ENI, but delegate ipvlan shares it; remove the key`,
		`"coolDown":"30s"`:   `ipam.coolDown: "30s": want seconds between 0 and 3600`,
		`"coolDown":7`:       `ipam.coolDown: 7: only pods that share the ENI lease addresses; remove the key`,
		`"coolDown":-1`:      `ipam.coolDown: -1: want seconds between 0 and 3600`,
		`"dataDir":"leases"`: `ipam.dataDir: "leases": want an absolute path without "..", "//" or a slash at the end`,
		`"routes":[{"dst":"vpc","gw":"fd00::1"}]`: `ipam.routes[0].gw: fd00::1 is not of the same IP family as routes[0].dst vpc; give a gateway of that ` +
			`family`,
		`"select":{}`: `ipam.select: unknown key; remove it`,
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
	full.Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.1.32/28"), netip.MustParsePrefix("fd00:0:0:0:1::/80")}
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
		"asked prefix":  {`},"runtimeConfig":{"ips":["10.0.1.47","fd00::1:0:0:5"]`, full, []string{"10.0.1.47/24", "fd00::1:0:0:5/64"}},
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

// TestSecondary: a pod may get other addresses than the primary ones if it gets all, or
// if anybody requests some.
func TestSecondary(t *testing.T) {
	address := netip.MustParseAddr("10.0.2.15")
	for ipam, want := range map[string]struct{ plain, requested bool }{
		``:                                       {false, true},
		`,"addresses":"one"`:                     {false, true},
		`,"addresses":"all"`:                     {true, true},
		`},"runtimeConfig":{"ips":["10.0.2.16"]`: {true, true},
	} {
		e := parseOK(t, with(`,"ipam":{"type":"eni-ipam"`+ipam+`}`)).ENIIPAM
		if plain, requested := e.Secondary(), e.Secondary(address); plain != want.plain || requested != want.requested {
			t.Errorf("%s: secondary %t, with a requested address %t; want %t", ipam, plain, requested, want)
		}
	}
}

// TestScopeWantsRouter: a route of another scope than 0 reaches its network on the link.
func TestScopeWantsRouter(t *testing.T) {
	for scope, want := range map[string]bool{``: false, `,"scope":0`: false, `,"scope":253`: true} {
		stdin := with(`,"ipam":{"type":"eni-ipam","routes":[{"dst":"fd00::/8"` + scope + `}]}`)
		if _, err := Parse([]byte(stdin)); (err == nil) != want {
			t.Errorf("an IPv6 route without gateway%s: %v; want it accepted: %t", scope, err, want)
		}
	}
}

// TestCoolDown: it is in seconds. A given one is not shortened while no other address is free.
func TestCoolDown(t *testing.T) {
	for ipam, want := range map[string][2]time.Duration{
		``:              {30 * time.Second, 5 * time.Second},
		`,"coolDown":7`: {7 * time.Second, 0},
		`,"coolDown":0`: {0, 0},
	} {
		e := parseOK(t, with(`,"delegate":{"type":"ipvlan"},"ipam":{"type":"eni-ipam"`+ipam+`}`)).ENIIPAM
		if got := [2]time.Duration{e.CoolDown, e.ScarceCoolDown}; got != want {
			t.Errorf("cool-down of %s: %v; want %v", ipam, got, want)
		}
	}
}

func TestENIIPAMUnderAPolicy(t *testing.T) {
	c := parseOK(t, with(`,"ipam":{"type":"eni-ipam"}`))
	if err := (&Policy{IPAM: []string{"host-local"}}).CheckTypes(c); err == nil {
		t.Error("allowed by a policy that does not list it")
	}
	if err := (&Policy{IPAM: []string{ENIIPAMType}}).CheckTypes(c); err != nil {
		t.Error(err)
	}
}

func TestParseIPAM(t *testing.T) {
	for conf, want := range map[string]string{
		`{"name":"n","type":"macvlan","master":"eth1","ipam":{"type":"eni-ipam"},"unknown":1}`:         "",
		`{"name":"n","type":"host-device","pciBusID":"0000:00:07.0","ipam":{"type":"eni-ipam"}}`:       "",
		`{"name":"n","type":"x","ipam":{"type":"eni-ipam","select":{"nodeENI":"a"},"inventory":"/i"}}`: "",
		`{"name":"n","type":"x","ipam":{"type":"eni-ipam"}}`:                                           "ipam.select: names no ENI",
		`{"name":"n","type":"x","ipam":{"type":"host-local"}}`:                                         "ipam.type: \"host-local\": want \"eni-ipam\"",
		`{"name":"n","type":"x"}`: "ipam.type: \"\": want \"eni-ipam\"",
		`{"name":"n","type":"macvlan","master":"a/b","ipam":{"type":"eni-ipam"}}`:                    "ipam.select: names no ENI",
		`{"name":"n","type":"macvlan","master":"eth1","ipam":{"type":"eni-ipam","addresses":"all"}}`: "ipam.addresses: \"all\" is for a pod",
		`{"name":"n","type":"x","ipam":{"type":"eni-ipam","select":{"node":"a"}}}`:                   "ipam.select.node: unknown key",
		`{"name":"n","type":"x","deviceID":"0000:00:07.0","pciBusID":"0000:00:08.0","ipam":{"type":"eni-ipam"}}`: "pciBusID: 0000:00:08.0, but deviceID is " +
			"0000:00:07.0",
	} {
		c, err := ParseIPAM([]byte(conf))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", conf, err)
		case want == "" && c.ENIIPAM == nil:
			t.Errorf("%s: no eni-ipam", conf)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", conf, err, want)
		}
		if _, err := ParseIPAMLenient([]byte(conf)); err != nil {
			t.Errorf("%s: lenient: %v", conf, err)
		}
	}
	c, err := ParseIPAM([]byte(`{"name":"n","type":"macvlan","master":"eth1","ipam":{"type":"eni-ipam","inventory":"/i","dataDir":"/d"}}`))
	if err != nil || c.Interface != "eth1" || !c.Delegate.Shared || c.Paths.Inventory != "/i" || c.Paths.LeaseDir != "/d" || c.ENIIPAM.CoolDown != 30*time.Second {
		t.Errorf("%+v, %v", c, err)
	}
	if err := (*Policy)(&nodestate.Policy{IPAM: []string{ENIIPAMType}}).CheckIPAM(c); err == nil || !strings.Contains(err.Error(), "ipam.dataDir") {
		t.Errorf("under a policy: %v", err)
	}
}

// TestResolveRoutes: vpc stands for the VPC's networks, through the subnet's router.
func TestResolveRoutes(t *testing.T) {
	c := parseOK(t, with(`,"ipam":{"type":"eni-ipam","routes":[{"dst":"vpc","priority":7},{"dst":"192.0.2.0/24","gw":"10.0.1.9"}]}`))
	d := nodestate.Device{VPCCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("100.64.0.0/16")}}
	routes, err := c.ENIIPAM.ResolveRoutes(d, []netip.Prefix{netip.MustParsePrefix("10.0.1.15/24")})
	var got []string
	for _, r := range routes {
		got = append(got, fmt.Sprint(r.Dst, r.Gateway, r.Priority, r.VPC))
	}
	if want := []string{"10.0.0.0/16 invalid IP 7 false", "100.64.0.0/16 invalid IP 7 false", "192.0.2.0/24 10.0.1.9 0 false"}; !slices.Equal(got, want) ||
		err != nil {
		t.Errorf("routes %q, %v; want %q", got, err, want)
	}
	if _, err := c.ENIIPAM.ResolveRoutes(d, []netip.Prefix{netip.MustParsePrefix("fd00::15/64")}); err == nil {
		t.Error("a route by the IPv4 router for a pod without IPv4")
	}
	if _, err := c.ENIIPAM.ResolveRoutes(nodestate.Device{}, []netip.Prefix{netip.MustParsePrefix("10.0.1.15/24")}); err == nil {
		t.Error("vpc, but its networks are not known")
	}
}

func FuzzParseIPAM(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","type":"macvlan","master":"eth1","ipam":{"type":"eni-ipam","routes":[{"dst":"vpc"}],"coolDown":5}}`))
	f.Add([]byte(`{"name":"n","type":"x","deviceID":"0000:00:07.0","ipam":{"type":"eni-ipam","select":{"mac":"02:00:00:00:00:01"},"dataDir":"/d"}}`))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		c, err := ParseIPAM(stdin)
		lenient, lenientErr := ParseIPAMLenient(stdin)
		if err != nil {
			return
		}
		if diff := cmp.Diff(c, lenient, sameConfig); diff != "" || lenientErr != nil {
			t.Fatalf("lenient: %v (-strict +lenient):\n%s", lenientErr, diff)
		}
		if c.ENIIPAM == nil || c.Select.Empty() && c.DeviceID == "" && c.Interface == "" {
			t.Fatalf("accepted without an ENI: %s", stdin)
		}
	})
}
