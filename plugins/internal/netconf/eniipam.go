package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
)

// ENIIPAMType is the ipam.type that gives a pod the addresses of its ENI.
const ENIIPAMType = "eni-ipam"

// ENIIPAM is the key ipam with the type eni-ipam. A pod that owns an ENI gets the ENI's
// addresses. Pods that share an ENI lease a secondary address each, or one of a delegated
// prefix.
type ENIIPAM struct {
	// How many addresses the pod gets. `one` is the primary address of each family; `all`
	// adds the secondary addresses, for a pod that owns the ENI. Pods that share an ENI get
	// one of each family.
	Addresses string `key:"addresses,\"one\""`
	// IP families: `ipv4`, `ipv6` or both. ADD fails if the ENI has no address of a family
	// in the list. Without the key it is IPv4, or IPv6 on an ENI that has only IPv6.
	Families []string `key:"families,[\"ipv4\"]"`
	// More routes. A route without `gw` goes through the subnet's router, the first address
	// of the subnet; this works for IPv4 only. The `dst` `vpc` stands for all IPv4 networks
	// of the VPC.
	Routes []Route `key:"routes,list of objects"`
	// Seconds for which a released address stays unused, 0 to 3600; only for pods that share
	// the ENI. Without the key it is 30, or 5 while no other address is free.
	CoolDown time.Duration `key:"coolDown,30"`
	// ScarceCoolDown is leases.Lease's.
	ScarceCoolDown time.Duration
	// Folder of the leases.
	DataDir string `key:"dataDir,\"/var/lib/cni/eni-ipam\""`

	// Requested has the addresses of runtimeConfig.ips and args.cni.ips. If there are any,
	// the pod gets these only.
	Requested []netip.Addr
}

const (
	addressesOne = "one"
	addressesAll = "all"
)

// eniIPAM reads the key ipam; nil if its type is another. More lists further allowed keys.
func (d *decoder) eniIPAM(p *Plugin, more ...string) *ENIIPAM {
	if p == nil || p.Type != ENIIPAMType {
		return nil
	}
	sub := d.object("ipam")
	if sub == nil {
		return nil
	}
	sub.onlyKeys(slices.Concat(keysOf(ENIIPAM{}), []string{"type"}, more)...)
	e := &ENIIPAM{
		Addresses: addressesOne, Routes: sub.routes(dstVPC), DataDir: leases.DefaultDir,
		CoolDown: lease.DefaultCoolDown, ScarceCoolDown: lease.DefaultScarceCoolDown,
	}
	sub.oneOf("addresses", &e.Addresses, addressesOne, addressesAll)
	sub.path("dataDir", &e.DataDir)
	var raw json.RawMessage
	if sub.raw("coolDown", &raw) {
		e.CoolDown = time.Duration(sub.number("coolDown", 0, 3600, "seconds between 0 and 3600")) * time.Second
		e.ScarceCoolDown = 0
	}
	if sub.raw("families", &raw) {
		bad := func(f string) bool { return f != leases.IPv4 && f != leases.IPv6 }
		err := json.Unmarshal(raw, &e.Families)
		if n := len(e.Families); err != nil || n == 0 || n > 2 || slices.ContainsFunc(e.Families, bad) || n == 2 && e.Families[0] == e.Families[1] {
			sub.fault("families", `%.100s: want a list of "ipv4" and "ipv6", each once, or leave it out`, raw)
		}
	}
	for i, r := range e.Routes {
		if r.wantsRouter() && r.Dst.Addr().Is6() {
			sub.fault(fmt.Sprintf("routes[%d].gw", i), "is missing, and the VPC's IPv6 router has no fixed address; "+
				"give gw, or remove the route: the router announces itself")
		}
	}
	e.Requested = d.requestedIPs()
	return e
}

func (e *ENIIPAM) checkSharing(d *decoder, delegate *Delegate) {
	if sub := d.object("ipam"); (delegate == nil || !delegate.Shared) && given(sub.fields["coolDown"]) {
		sub.fault("coolDown", "%s: only pods that share the ENI lease addresses; remove the key", clip(sub.fields["coolDown"]))
	}
	switch {
	case delegate == nil:
	case delegate.Type == "vlan":
		d.fault("ipam.type", "%q: the VPC does not deliver the ENI's addresses inside a VLAN; use delegate ipvlan, or another IPAM plugin", ENIIPAMType)
	case delegate.Shared && e.Addresses == addressesAll:
		d.fault("ipam.addresses", "%q is for a pod that owns the ENI, but delegate %s shares it; remove the key", addressesAll, delegate.Type)
	}
}

// ParseRequestedIP parses a requested address, and ignores a prefix length: the subnet
// determines it.
func ParseRequestedIP(s string) (netip.Addr, error) {
	bare, _, _ := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(bare)
	if err != nil {
		return addr, fmt.Errorf("%q: want an address such as 10.0.1.15/24", s)
	}
	return addr.Unmap(), nil
}

// Pick returns the addresses of a pod that owns the device, with the lengths of their
// subnets. Requested comes from CNI_ARGS. If there are requests, there or in the netconf,
// they replace every other choice.
func (e *ENIIPAM) Pick(d nodestate.Device, requested ...netip.Addr) ([]netip.Prefix, error) {
	if len(d.Addresses) == 0 {
		return nil, ErrNoAddressYet
	}
	if requested = slices.Concat(e.Requested, requested); len(requested) > 0 {
		return pickRequested(d, requested)
	}
	families := e.Families
	if len(families) == 0 {
		families = []string{leases.FamilyOf(d.Addresses[0].Addr())} // IPv4 comes first
	}
	var out []netip.Prefix
	for _, family := range families {
		of := slices.DeleteFunc(slices.Clone(d.Addresses), func(p netip.Prefix) bool { return leases.FamilyOf(p.Addr()) != family })
		if len(of) == 0 {
			return nil, fmt.Errorf("ENI %s has no %s address, only %s; assign one to it, or remove that family from ipam.families", d.ENIID, family, list(d.Addresses))
		}
		if e.Addresses != addressesAll {
			of = of[:1]
		}
		out = append(out, of...)
	}
	return out, nil
}

// Secondary reports whether Pick may give other addresses than the primary ones.
func (e *ENIIPAM) Secondary(requested ...netip.Addr) bool {
	return e.Addresses == addressesAll || len(e.Requested)+len(requested) > 0
}

// ErrNoAddressYet says that the daemon does not know the ENI's addresses yet.
var ErrNoAddressYet = errors.New("the addresses of the ENI are not known yet; multi-enid learns them from the instance metadata, see multi-enid status")

func pickRequested(d nodestate.Device, requested []netip.Addr) (out []netip.Prefix, err error) {
	for _, want := range requested {
		p, ok := owned(d, want)
		if !ok {
			return nil, fmt.Errorf("address %s was requested, but ENI %s has only %s; request one of these, or assign it to the ENI",
				want, d.ENIID, list(d.Addresses, d.Prefixes...))
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func owned(d nodestate.Device, a netip.Addr) (netip.Prefix, bool) {
	for _, p := range d.Addresses {
		if p.Addr() == a {
			return p, true
		}
	}
	for _, pool := range leases.Pools(&d) {
		if p, ok := pool.Find(a); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// ResolveRoutes returns the routes of a pod with these addresses, with the VPC's networks
// in place of vpc.
func (e *ENIIPAM) ResolveRoutes(d nodestate.Device, addresses []netip.Prefix) (out []Route, err error) {
	v4 := slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
	for _, r := range e.Routes {
		if !v4 && r.wantsRouter() && (r.VPC || r.Dst.Addr().Is4()) {
			return nil, fmt.Errorf("the route to %s has no gateway, and the pod gets no IPv4 address whose subnet router it could use; "+
				"give gw, or add ipv4 to ipam.families", r.dst())
		}
		if !r.VPC {
			out = append(out, r)
			continue
		}
		if len(d.VPCCIDRs) == 0 {
			return nil, fmt.Errorf("dst %q: the inventory does not list the VPC's networks; write one route for each network instead", dstVPC)
		}
		for _, cidr := range d.VPCCIDRs {
			r.Dst, r.VPC = cidr, false
			out = append(out, r)
		}
	}
	return out, nil
}

// Request returns the request of a pod that shares the ENI. Requested comes from CNI_ARGS.
func (e *ENIIPAM) Request(holder leases.Lease, requested ...netip.Addr) lease.Request {
	holder.CoolDown, holder.ScarceCoolDown = e.CoolDown, e.ScarceCoolDown
	return lease.Request{Holder: holder, Families: e.Families, Addresses: slices.Concat(e.Requested, requested)}
}

// list joins addresses without their lengths, then prefixes.
func list(addresses []netip.Prefix, prefixes ...netip.Prefix) string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.Addr().String())
	}
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

// ParseIPAM checks another plugin's netconf that runs eni-ipam, and ignores the keys of
// that plugin. The Config's Delegate stands for the plugin, and Select is ipam.select.
// Errors are the same as Parse's.
func ParseIPAM(stdin []byte) (*Config, error) {
	d, c, err := parseIPAM(stdin)
	if err != nil {
		return nil, err
	}
	switch {
	case c.ENIIPAM == nil:
		if !d.faultAt("ipam") {
			var typ string
			if sub := d.object("ipam"); sub != nil {
				typ = unquote(sub.fields["type"])
			}
			d.fault("ipam.type", "%q: want %q", typ, ENIIPAMType)
		}
	case c.Select.Empty() && c.DeviceID == "" && c.Interface == "" && !d.faultAt("ipam", "deviceID", "pciBusID", "runtimeConfig"):
		d.fault("ipam.select", "names no ENI, and neither does the netconf by master, device, deviceID or pciBusID; give ipam.select.nodeENI")
	default:
		c.ENIIPAM.checkSharing(d, c.Delegate)
	}
	return c, d.refused(c)
}

// ParseIPAMLenient is ParseIPAM for DEL, GC and STATUS, like ParseLenient.
func ParseIPAMLenient(stdin []byte) (*Config, error) {
	_, c, err := parseIPAM(stdin)
	return c, err
}

func parseIPAM(stdin []byte) (*decoder, *Config, error) {
	d, err := newDecoder(stdin)
	if err != nil {
		return nil, nil, err
	}
	c := d.common()
	typ := unquote(d.fields["type"])
	known, ok := knownDelegates[typ]
	c.Delegate = &Delegate{Plugin: Plugin{Type: typ}, Shared: known.shared || !ok}
	for _, key := range []string{"master", "device"} {
		if name := unquote(d.fields[key]); c.Interface == "" {
			if _, err := device.ParseInterfaceName(name); err == nil {
				c.Interface = name
			}
		}
	}
	if c.ENIIPAM = d.eniIPAM(d.ipam(), "select", "inventory"); c.ENIIPAM != nil {
		sub := d.object("ipam")
		c.Paths.LeaseDir = c.ENIIPAM.DataDir
		sub.path("inventory", &c.Paths.Inventory)
		c.Select = sub.selectDevice()
	}
	c.Refused = d.refused(c)
	return d, c, nil
}
