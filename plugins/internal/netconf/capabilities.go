package netconf

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// asks are keys by which a runtime requests things (CNI conventions): in runtimeConfig, in
// args.cni, and in CNI_ARGS.
type asks struct{ capabilities, args, environment []string }

// takers lists the requests that each known plugin carries out.
var takers = map[string]asks{
	Type:          {[]string{"deviceID", "CNIDeviceInfoFile", "mac"}, []string{"mac"}, []string{"MAC"}},
	"ipvlan":      {},
	"vlan":        {},
	"host-device": {capabilities: []string{"deviceID"}},
	"macvlan":     {capabilities: []string{"mac"}, environment: []string{"MAC"}},
	"sriov":       {capabilities: []string{"mac"}, environment: []string{"MAC"}},
	ENIIPAMType:   {[]string{"ips"}, []string{"ips"}, []string{"IP"}},
	"host-local":  {[]string{"ips", "ipRanges"}, []string{"ips"}, []string{"IP"}},
	"static":      {[]string{"ips"}, []string{"ips"}, []string{"IP", "GATEWAY"}},
	"dhcp":        {},
	"whereabouts": {environment: []string{"IP", "GATEWAY"}},
}

// takes reports whether a plugin of the netconf takes a key, as unknown plugins may.
func (c *Config) takes(key string, place func(asks) []string) bool {
	return slices.ContainsFunc(c.types(), func(typ string) bool {
		known, ok := takers[typ]
		return !ok || slices.Contains(place(known), key)
	})
}

func capabilitiesOf(a asks) []string { return a.capabilities }
func argsOf(a asks) []string         { return a.args }
func environmentOf(a asks) []string  { return a.environment }

func (c *Config) types() []string {
	out := []string{Type}
	if c.Delegate != nil {
		out = append(out, c.Delegate.Type)
	}
	switch {
	case c.ENIIPAM != nil:
		out = append(out, ENIIPAMType)
	case c.IPAM != nil:
		out = append(out, c.IPAM.Type)
	}
	return out
}

func (d *decoder) checkRequests(c *Config) {
	nobody := fmt.Sprintf("no plugin of this netconf uses it (%s)", strings.Join(c.types(), ", "))
	if sub := d.object("runtimeConfig"); sub != nil {
		for _, key := range slices.Sorted(maps.Keys(sub.fields)) {
			if given(sub.fields[key]) && !c.takes(key, capabilitiesOf) {
				sub.fault(key, "%s: %s; remove it from capabilities", clip(sub.fields[key]), nobody)
			}
		}
	}
	if sub := d.cniArgs(); sub != nil {
		for _, key := range []string{"ips", "mac"} { // others may be meant for a plugin that comes later in the list
			if given(sub.fields[key]) && !c.takes(key, argsOf) {
				sub.fault(key, "%s: %s; remove it", clip(sub.fields[key]), nobody)
			}
		}
	}
}

// given reports whether a value requests anything.
func given(raw json.RawMessage) bool {
	return !slices.Contains([]string{"", "null", `""`, "[]", "{}"}, string(raw))
}

// CheckArgs refuses IP, GATEWAY and MAC of CNI_ARGS if no plugin takes them.
func (c *Config) CheckArgs(args map[string]string) error {
	for _, key := range []string{"IP", "GATEWAY", "MAC"} {
		if args[key] != "" && !c.takes(key, environmentOf) {
			return fmt.Errorf("%s=%s: no plugin of this netconf uses it (%s); remove it", key, args[key], strings.Join(c.types(), ", "))
		}
	}
	return nil
}

// cniArgs returns args.cni; nil if absent.
func (d *decoder) cniArgs() *decoder {
	if sub := d.object("args"); sub != nil {
		return sub.object("cni")
	}
	return nil
}

// requested reads the requested addresses, and the one MAC that all places request.
func (d *decoder) requested(c *Config) {
	var where string
	take := func(in *decoder, key string) {
		var mac device.MAC
		if in == nil || !parseInto(in, key, &mac, device.ParseMAC) {
			return
		}
		if c.MAC != "" && mac != c.MAC {
			in.fault(key, "%s, but %s is %s; they must be the same, so remove one", mac, where, c.MAC)
			return
		}
		c.MAC, where = mac, in.prefix+key
	}
	take(d.object("runtimeConfig"), "mac")
	take(d.cniArgs(), "mac")
	if c.Delegate != nil && slices.Contains(takers[c.Delegate.Type].capabilities, "mac") {
		sub := d.object("delegate")
		for key := range sub.fields {
			if strings.EqualFold(key, "mac") {
				take(sub, key)
			}
		}
	}
	c.IPs = d.requestedIPs()
}

// requestedIPs returns the addresses of runtimeConfig.ips and args.cni.ips, each once.
func (d *decoder) requestedIPs() (out []netip.Addr) {
	for _, sub := range []*decoder{d.object("runtimeConfig"), d.cniArgs()} {
		var raw json.RawMessage
		if sub == nil || !sub.raw("ips", &raw) {
			continue
		}
		var ips []string
		if json.Unmarshal(raw, &ips) != nil {
			sub.fault("ips", "%.100s: want a list of addresses such as 10.0.1.15/24", raw)
			continue
		}
		for i, s := range ips {
			addr, err := ParseRequestedIP(s)
			if err != nil {
				sub.fault(fmt.Sprintf("ips[%d]", i), "%v", err)
				continue
			}
			if !slices.Contains(out, addr) {
				out = append(out, addr)
			}
		}
	}
	return out
}

// TakesMAC reports whether the delegate may give the interface another MAC than the device's.
func (d *Delegate) TakesMAC() bool {
	known, ok := takers[d.Type]
	return !ok || slices.Contains(known.capabilities, "mac")
}

// OwnMTU reports whether the delegate's part sets an MTU.
func (d *Delegate) OwnMTU() bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(d.Raw, &fields) == nil && hasFold(fields, "mtu")
}
