package netconf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// Route is a route of the netconf, as in the CNI spec 1.1.0 result. Zero values
// mean "not given".
type Route struct {
	// Network that the route reaches. Required.
	Dst netip.Prefix `key:"dst,\"10.0.0.0/8\""`
	// Next hop, of the same IP family as `dst`. Without it, the route uses the gateway of
	// the pod's first address of that family. If that address has none, or `scope` is not 0,
	// the network is on the link.
	Gateway netip.Addr `key:"gw,\"10.0.1.1\""`
	// MTU of the path in octets, 68 to 65535.
	MTU int `key:"mtu,1500"`
	// TCP segment size that the pod advertises, in octets.
	AdvMSS int `key:"advmss,1460"`
	// Metric: the kernel prefers the route with the lowest one. Without the key, IPv6 routes
	// get 1024.
	Priority int `key:"priority,100"`
	// Number of the route table, from 1. Without the key, it is the main table.
	Table int `key:"table,100"`
	// Scope of the route in the kernel, from 0 (universe) to 255 (nowhere).
	Scope *int `key:"scope,253"`

	// VPC: the route stands for a route to each IPv4 network of the VPC, and Dst is not
	// set.
	VPC bool
}

const dstVPC = "vpc"

func (r Route) dst() string {
	if r.VPC {
		return dstVPC
	}
	return r.Dst.String()
}

var routeKeys = keysOf(Route{})

// wantsRouter reports whether the route needs a next hop and names none.
func (r Route) wantsRouter() bool {
	return !r.Gateway.IsValid() && (r.Scope == nil || *r.Scope == 0)
}

// routes reads the key routes. Words are values of dst that are allowed besides networks.
func (d *decoder) routes(words ...string) []Route {
	var out []Route
	for i, sub := range d.list("routes") {
		if sub == nil {
			continue
		}
		sub.onlyKeys(routeKeys...)
		var r Route
		var word string
		ok := slices.Contains(words, unquote(sub.fields["dst"])) && sub.str("dst", &word)
		r.VPC = word == dstVPC
		if !ok {
			ok = parseInto(sub, "dst", &r.Dst, parseNetwork)
		}
		if !ok && !sub.faultAt("dst") {
			sub.fault("dst", "is missing; give a network such as 10.0.0.0/8")
		}
		if parseInto(sub, "gw", &r.Gateway, parseAddress) {
			switch {
			case r.Gateway.Zone() != "":
				sub.fault("gw", "%s: want an address without a zone, since the gateway is always on the pod's interface; remove the zone", r.Gateway)
			case ok && r.Gateway.Is4() != (r.VPC || r.Dst.Addr().Is4()):
				sub.fault("gw", "%s is not of the same IP family as routes[%d].dst %s; give a gateway of that family", r.Gateway, i, r.dst())
			}
		}
		r.Dst = r.Dst.Masked()
		r.MTU = sub.number("mtu", 68, 65535, "octets between 68 and 65535")
		r.AdvMSS = sub.number("advmss", 1, 65535, "octets between 1 and 65535")
		r.Priority = sub.number("priority", 0, 1<<31-1, "a whole number from 0")
		r.Table = sub.number("table", 1, 1<<31-1, "a route table from 1")
		var given json.RawMessage
		scope := sub.number("scope", 0, 255, "a scope from 0 (universe) to 255 (nowhere)")
		if sub.raw("scope", &given) && !sub.faultAt("scope") {
			r.Scope = &scope
		}
		if ok {
			out = append(out, r)
		}
	}
	return out
}

func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q: want a network such as 10.0.0.0/8", s)
	}
	return p, nil
}

func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q: want an address such as 10.0.0.1", s)
	}
	return a, nil
}
