package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestENIIPAMBelowOthers: eni-ipam as the IPAM plugin of macvlan and of host-device, under every CNI version.
func TestENIIPAMBelowOthers(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	c.inventory("10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "fd00:2::15/64", "fd00:2::16/64", "fd00:2::17/64")
	l, err := netlink.LinkByName(eni.Name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	ipam := map[string]any{"type": "eni-ipam", "families": []string{"ipv4", "ipv6"}, "coolDown": 0, "routes": []any{map[string]any{"dst": "0.0.0.0/0"}}}
	macvlan := map[string]any{"type": "macvlan", "master": eni.Name, "ipam": ipam, "capabilities": map[string]any{"ips": true}}
	gives := func(out string, want ...string) {
		t.Helper()
		checkAddresses(t, out, want)
	}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		c.conflist(version, macvlan)
		must(t, leases.Dir(leases.DefaultDir).RemoveAll()) // and with them which were given last
		first, second, third := c.pod("first-"+version), c.pod("second-"+version), c.pod("third-"+version)
		gives(c.mustTool("add", first), "10.0.2.16/24", "fd00:2::16/64")
		must(t, c.reach(first, "10.0.2.16/24", "10.0.2.1"))
		if out, err := c.cnitool("add", second, `CAP_ARGS={"ips":["10.0.2.15"]}`); err == nil || !strings.Contains(out, "10.0.2.15 was requested") ||
			!strings.Contains(out, "10.0.2.16, 10.0.2.17 (ipv4)") {
			t.Errorf("%s: the ENI's own address, asked for: %v, %s", version, err, out)
		}
		c.mustTool("del", second) // as runtimes do after any failed ADD
		out, err := c.cnitool("add", second, `CAP_ARGS={"ips":["10.0.2.17/24","fd00:2::17"]}`)
		if err != nil {
			t.Fatalf("%s: add: %v, %s", version, err, out)
		}
		gives(out, "10.0.2.17/24", "fd00:2::17/64")
		if out, err := c.cnitool("add", third); err == nil || !strings.Contains(out, "all 2 ipv4 addresses") || !strings.Contains(out, "2 leased, 0 cooling down") {
			t.Errorf("%s: a third pod: %v, %s", version, err, out)
		}
		c.mustTool("del", third)
		if version != "0.3.1" {
			c.mustTool("check", first)
			must(t, leases.Dir(leases.DefaultDir).RemoveAll())
			if out, err := c.cnitool("check", first); err == nil || !strings.Contains(out, "has no address of ENI") {
				t.Errorf("%s: CHECK without a lease: %v, %s", version, err, out)
			}
		}
		if version == "1.1.0" {
			c.mustTool("status", first)
			c.mustTool("gc", first)
		}
		must(t, nstest.DeleteNetns(second))
		for _, pod := range []string{first, second, first} {
			c.mustTool("del", pod)
		}

		own := map[string]any{"type": "eni-ipam", "families": ipam["families"], "routes": ipam["routes"]}
		c.conflist(version, map[string]any{"type": "host-device", "device": eni.Name, "ipam": own})
		alone := c.pod("alone-" + version)
		gives(c.mustTool("add", alone), "10.0.2.15/24", "fd00:2::15/64")
		must(t, c.reach(alone, "10.0.2.15/24", "10.0.2.1"))
		c.mustTool("del", alone)
		if held, err := leases.Dir(leases.DefaultDir).Held(); err != nil || held != nil {
			t.Errorf("%s: held after all DELs: %v, %v", version, held, err)
		}
		l, err := netlink.LinkByName(eni.Name)
		must(t, err)
		must(t, netlink.LinkSetUp(l)) // host-device gives it back down
	}
}

// checkAddresses wants exactly these addresses in a result, each IPv4 one with the gateway, and one route by it.
func checkAddresses(t *testing.T, out string, want []string) {
	t.Helper()
	var result struct {
		IPs    []struct{ Address, Gateway string }
		Routes []struct{ Dst, GW string }
	}
	must(t, json.Unmarshal([]byte(out), &result))
	if len(result.Routes) != 1 || result.Routes[0].GW != "10.0.2.1" { // for whoever prints it
		t.Errorf("routes %+v", result.Routes)
	}
	var got []string
	for _, ip := range result.IPs {
		got = append(got, ip.Address)
		if v4 := strings.Contains(ip.Address, "."); v4 != (ip.Gateway == "10.0.2.1") {
			t.Errorf("%s by %q", ip.Address, ip.Gateway)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}
