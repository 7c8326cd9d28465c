package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// ENIIPAMType is the ipam.type by which a pod gets the addresses that the VPC
// routes to its ENI.
const ENIIPAMType = "eni-ipam"

// ENIIPAM is the key ipam with the type eni-ipam. Who has an ENI to himself has
// its addresses: nothing is leased, and nothing needs to be released.
type ENIIPAM struct {
	// Addresses is one, the primary address of each family, or all of them.
	Addresses string `key:"addresses,\"one\""`
	// Families are ipv4 and ipv6; each that is named must be there. Without the
	// key it is IPv4, or IPv6 on an ENI that has no other.
	Families []string `key:"families,[\"ipv4\"]"`
	// Routes are further ones. One without a gateway goes by the subnet's router,
	// which is known for IPv4 only: the first address of the subnet.
	Routes []Route `key:"routes,list of objects"`

	// Requested are the runtime's, by runtimeConfig.ips: these and no other.
	Requested []netip.Addr
}

const (
	addressesOne = "one"
	addressesAll = "all"
	familyIPv4   = "ipv4"
	familyIPv6   = "ipv6"
)

// eniIPAM reads what ipam() has found to be ours.
func (d *decoder) eniIPAM(p *Plugin) *ENIIPAM {
	if p == nil || p.Type != ENIIPAMType {
		return nil
	}
	sub := d.object("ipam")
	if sub == nil {
		return nil
	}
	sub.onlyKeys(append(keysOf(ENIIPAM{}), "type")...)
	e := &ENIIPAM{Addresses: addressesOne, Routes: sub.routes()}
	sub.oneOf("addresses", &e.Addresses, addressesOne, addressesAll)
	var raw json.RawMessage
	if sub.raw("families", &raw) {
		bad := func(f string) bool { return f != familyIPv4 && f != familyIPv6 }
		err := json.Unmarshal(raw, &e.Families)
		if n := len(e.Families); err != nil || n == 0 || n > 2 || slices.ContainsFunc(e.Families, bad) || n == 2 && e.Families[0] == e.Families[1] {
			sub.fault("families", `%.100s: want a list of "ipv4" and "ipv6", each once, or leave it out`, raw)
		}
	}
	for i, r := range e.Routes {
		if r.wantsRouter() && r.Dst.Addr().Is6() {
			sub.fault(fmt.Sprintf("routes[%d].gw", i), "is missing, and the VPC's IPv6 router is not known by address; give it, or leave the route out: the router announces itself")
		}
	}
	e.Requested = d.requestedIPs()
	return e
}

// requestedIPs are those of runtimeConfig.ips, with or without a length (CNI
// conventions, capability "ips").
func (d *decoder) requestedIPs() (out []netip.Addr) {
	sub := d.object("runtimeConfig")
	var raw json.RawMessage
	if sub == nil || !sub.raw("ips", &raw) {
		return nil
	}
	var ips []string
	if json.Unmarshal(raw, &ips) != nil {
		sub.fault("ips", "%.100s: want a list of addresses such as 10.0.1.15/24", raw)
		return nil
	}
	for i, s := range ips {
		addr, err := ParseRequestedIP(s)
		if err != nil {
			sub.fault(fmt.Sprintf("ips[%d]", i), "%v", err)
			continue
		}
		out = append(out, addr)
	}
	return out
}

// ParseRequestedIP reads an address that a runtime asks for, with or without a
// length: what length it has is the subnet's to say.
func ParseRequestedIP(s string) (netip.Addr, error) {
	bare, _, _ := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(bare)
	if err != nil {
		return addr, fmt.Errorf("%q: want an address such as 10.0.1.15/24", s)
	}
	return addr.Unmap(), nil
}

// Pick returns the addresses, with the lengths of their subnets, that a pod with
// the whole device gets. Requested are those of CNI_ARGS; with those of the
// netconf they take the place of every other choice.
func (e *ENIIPAM) Pick(d nodestate.Device, requested ...netip.Addr) ([]netip.Prefix, error) {
	if len(d.Addresses) == 0 {
		return nil, ErrNoAddressYet
	}
	if requested = slices.Concat(e.Requested, requested); len(requested) > 0 {
		return pickRequested(d, requested)
	}
	families := e.Families
	if len(families) == 0 {
		families = []string{familyOf(d.Addresses[0])} // IPv4 comes first
	}
	var out []netip.Prefix
	for _, family := range families {
		of := slices.DeleteFunc(slices.Clone(d.Addresses), func(p netip.Prefix) bool { return familyOf(p) != family })
		if len(of) == 0 {
			return nil, fmt.Errorf("ENI %s has no %s address; it has %s: assign one to it, or leave that family out of ipam.families", d.ENIID, family, list(d.Addresses))
		}
		if e.Addresses != addressesAll {
			of = of[:1]
		}
		out = append(out, of...)
	}
	return out, nil
}

// ErrNoAddressYet says that the daemon has not learned the ENI's addresses.
var ErrNoAddressYet = errors.New("the addresses of the ENI are not known yet")

func pickRequested(d nodestate.Device, requested []netip.Addr) (out []netip.Prefix, err error) {
	for _, want := range requested {
		i := slices.IndexFunc(d.Addresses, func(p netip.Prefix) bool { return p.Addr() == want })
		if i < 0 {
			return nil, fmt.Errorf("address %s was asked for, but ENI %s has %s: ask for one of these, or assign it to the ENI", want, d.ENIID, list(d.Addresses))
		}
		if !slices.Contains(out, d.Addresses[i]) {
			out = append(out, d.Addresses[i])
		}
	}
	return out, nil
}

// Unroutable returns a route that wants the router of a subnet in which the pod
// gets none of these addresses.
func (e *ENIIPAM) Unroutable(addresses []netip.Prefix) (netip.Prefix, bool) {
	v4 := slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
	for _, r := range e.Routes {
		if !v4 && r.wantsRouter() && r.Dst.Addr().Is4() {
			return r.Dst, true
		}
	}
	return netip.Prefix{}, false
}

// Router is the subnet's in the VPC: its first address. The zero Addr for IPv6,
// where it is known by its announcements only.
func Router(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	return p.Masked().Addr().Next()
}

func familyOf(p netip.Prefix) string {
	if p.Addr().Is4() {
		return familyIPv4
	}
	return familyIPv6
}

func list(addresses []netip.Prefix) string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.Addr().String())
	}
	return strings.Join(out, ", ")
}
