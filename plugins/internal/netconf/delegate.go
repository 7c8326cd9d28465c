package netconf

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Delegate is the plugin that makes the pod's interface from the device.
type Delegate struct {
	Plugin
	Field  string // the key of its netconf that names the device
	Shared bool   // several pods may use the device through it
}

// delegateFields are the keys by which delegates take their device: true for the PCI
// address, false for the interface's name.
var delegateFields = map[string]bool{"deviceID": true, "pciBusID": true, "master": false, "device": false}

var knownDelegates = map[string]struct {
	fields []string
	shared bool
}{
	"ipvlan":      {[]string{"master"}, true},
	"macvlan":     {[]string{"master"}, true},
	"vlan":        {[]string{"master"}, true},
	"host-device": {[]string{"pciBusID", "device"}, false},
	"sriov":       {[]string{"deviceID"}, false},
}

// Keys of a delegate that only multi-eni sets: they select a device, or are inherited.
// They are reserved in any case, since delegates read them with encoding/json, which
// ignores case.
var (
	reservedDeviceKeys = []string{"master", "device", "deviceID", "pciBusID", "hwaddr", "kernelpath", "linkInContainer"}
	inheritedKeys      = []string{"name", "cniVersion", "ipam", "args", "runtimeConfig", "prevResult", "dns"}
)

func (d *decoder) delegate() *Delegate {
	sub := d.object("delegate")
	if sub == nil {
		return nil
	}
	p := sub.plugin()
	for _, key := range slices.Sorted(maps.Keys(sub.fields)) {
		switch {
		case containsFold(reservedDeviceKeys, key):
			sub.fault(key, "multi-eni sets it to the selected device; remove it")
		case containsFold(inheritedKeys, key):
			sub.fault(key, "the delegate inherits it; write it beside delegate, not inside")
		}
	}
	if p == nil {
		return nil
	}
	field := sub.deviceField(p.Type)
	if field == "" {
		return nil
	}
	return &Delegate{Plugin: *p, Field: field, Shared: knownDelegates[p.Type].shared}
}

// deviceField returns the key by which a delegate takes its device; "" with a fault.
func (d *decoder) deviceField(typ string) string {
	var field string
	d.oneOf("deviceField", &field, slices.Sorted(maps.Keys(delegateFields))...)
	known, ok := knownDelegates[typ]
	switch {
	case !ok && field == "" && !d.faultAt("deviceField"):
		d.fault("deviceField", "is missing; name the key by which %s takes its device: deviceID or pciBusID (PCI address), master or device (interface name)", typ)
	case ok && field != "" && !slices.Contains(known.fields, field):
		d.fault("deviceField", "%q: %s takes its device by the key %s; remove deviceField", field, typ, strings.Join(known.fields, " or "))
		field = ""
	}
	if ok && field == "" {
		return known.fields[0]
	}
	return field
}

// ReleasesAddresses reports whether a delegate's successful DEL always runs DEL of its
// IPAM plugin. Host-device does not without a netns, and other plugins are unknown.
func ReleasesAddresses(delegate string) bool { return knownDelegates[delegate].shared }

// MovesDevice reports whether a delegate is known to move the device's own link into the
// pod, so that no other link there is the delegate's.
func MovesDevice(delegate string) bool {
	known, ok := knownDelegates[delegate]
	return ok && !known.shared
}

// AddressesAlone reports whether an IPAM plugin is known to use only its own store, so that it can
// run while the device moves. Dhcp asks through the interface.
func AddressesAlone(ipam string) bool {
	switch ipam {
	case "host-local", "static", "whereabouts":
		return true
	}
	return false
}

// TakesPrevResult reports whether the delegate may read the result of an earlier plugin.
func (c *Config) TakesPrevResult() bool {
	if c.Delegate == nil || c.ENIIPAM != nil { // with eni-ipam it is the addresses
		return false
	}
	_, known := knownDelegates[c.Delegate.Type]
	return !known || c.Delegate.Type == "ipvlan"
}

// NeedsLink reports whether the delegate takes the name of an interface.
func (d *Delegate) NeedsLink() bool { return !delegateFields[d.Field] }

// Passthru reports whether a macvlan delegate keeps the device's own MAC.
func (d *Delegate) Passthru() bool {
	var fields struct{ Mode string }
	return json.Unmarshal(d.Raw, &fields) == nil && fields.Mode == "passthru"
}

// DelegateConfig composes the delegate's netconf: its own keys, the device under Field, and the
// inherited keys. Link is the interface's name. For GC and STATUS pci and link are "".
func (c *Config) DelegateConfig(pci device.PCIAddress, link string, mtu int) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.Delegate.Raw, &fields); err != nil {
		return nil, fmt.Errorf("compose netconf of %s: %w", c.Delegate.Type, err)
	}
	delete(fields, "deviceField")
	own := map[string]any{}
	value := pci.String()
	if c.Delegate.NeedsLink() {
		value = link
	}
	if value != "" {
		own[c.Delegate.Field] = value
	}
	if !c.Delegate.OwnMTU() && mtu != 0 && c.Delegate.Shared {
		own["mtu"] = mtu
	}
	for key, raw := range fields {
		own[key] = raw
	}
	inherited := c.inherited(pci)
	if c.ENIIPAM != nil {
		delete(inherited, "prevResult") // it will be the addresses
	}
	maps.Copy(own, inherited)
	return compose(c.Delegate.Type, own)
}

// IPAMConfig composes the netconf of an IPAM plugin (CNI spec 1.1.0 section 4).
func (c *Config) IPAMConfig() (json.RawMessage, error) {
	conf := c.inherited(c.DeviceID)
	conf["type"] = Type
	if c.DeviceID != "" {
		conf["deviceID"] = c.DeviceID.String()
	}
	return compose(c.IPAM.Type, conf)
}

// PluginVersion is the CNI version in which other plugins are called: the netconf's, but
// at least 0.3.1. Results before 0.3.0 name no interface and need an address.
func (c *Config) PluginVersion() string {
	switch c.CNIVersion {
	case "", "0.1.0", "0.2.0":
		return "0.3.1"
	}
	return c.CNIVersion
}

// inherited returns the validated keys that another plugin gets for a device.
func (c *Config) inherited(pci device.PCIAddress) map[string]any {
	out := map[string]any{"cniVersion": c.PluginVersion(), "name": c.Name}
	if c.IPAM != nil {
		out["ipam"] = c.IPAM.Raw
	}
	if c.ValidAttachments != nil {
		out["cni.dev/valid-attachments"] = c.ValidAttachments
	}
	for key, raw := range map[string]json.RawMessage{"args": c.Args, "runtimeConfig": c.runtimeConfigFor(pci), "prevResult": c.PrevResult, "dns": c.DNS} {
		if raw != nil {
			out[key] = raw
		}
	}
	return out
}

func compose(typ string, fields map[string]any) (json.RawMessage, error) {
	conf, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("compose netconf of %s: %w", typ, err)
	}
	return conf, nil
}

func hasFold(fields map[string]json.RawMessage, key string) bool {
	return containsFold(slices.Collect(maps.Keys(fields)), key)
}

// WithPrevResult returns a plugin's netconf with another prevResult; nil keeps it.
func WithPrevResult(conf, prev json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(conf, &fields); err != nil {
		return nil, fmt.Errorf("compose netconf: %w", err)
	}
	if prev != nil {
		fields["prevResult"] = prev
	}
	return json.Marshal(fields)
}

// runtimeConfigFor returns runtimeConfig for a plugin. DeviceID stays only if it is the
// selected device, since host-device prefers it to its own keys. Mac is the requested MAC,
// from wherever it was requested.
func (c *Config) runtimeConfigFor(pci device.PCIAddress) json.RawMessage {
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(c.RuntimeConfig, &fields) != nil && c.MAC == "" { // there is none: else it was read as an object
		return nil
	}
	if c.MAC != "" {
		fields["mac"] = json.RawMessage(strconv.Quote(c.MAC.String()))
	}
	maps.DeleteFunc(fields, func(key string, raw json.RawMessage) bool {
		switch {
		case strings.EqualFold(key, "CNIDeviceInfoFile"): // multi-eni writes it
			return true
		case strings.EqualFold(key, "deviceID"):
			return key != "deviceID" || !strings.EqualFold(unquote(raw), pci.String())
		}
		return false
	})
	out, err := json.Marshal(fields)
	if err != nil { // not of JSON that has been read
		return nil
	}
	return out
}

func unquote(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// Plugin is another CNI plugin's type and netconf.
type Plugin struct {
	Type string
	Raw  json.RawMessage
}

func (d *decoder) ipam() *Plugin {
	sub := d.object("ipam")
	if sub == nil || len(sub.fields) == 0 {
		return nil
	}
	return sub.plugin()
}

// plugin reads another plugin's netconf; nil with a fault if its type is bad. Relative
// paths are faults, since they would depend on the plugin's working folder.
func (d *decoder) plugin() *Plugin {
	p := &Plugin{Raw: d.whole}
	for key := range d.fields {
		if key != "type" && strings.EqualFold(key, "type") && !d.faultAt(key) { // other plugins may read it as type
			d.fault(key, "unknown key (did you mean type?); remove it")
		}
	}
	if d.str("type", &p.Type); !pluginName(p.Type) && !d.faultAt("type") {
		d.fault("type", "%q: want the file name of a CNI plugin, such as host-local", p.Type)
	}
	relative := func(key, v string) bool { return containsFold(othersPaths, key) && v != "" && !filepath.IsAbs(v) }
	if at, v := findString("", d.whole, relative); at != "" && p.Type != ENIIPAMType {
		d.fault(at, "%q: want an absolute path", v)
	}
	if d.faultAt("type") {
		return nil
	}
	return p
}

func pluginName(s string) bool {
	return s != "" && s[0] != '.' && !strings.ContainsAny(s, "/\\\x00 ")
}
