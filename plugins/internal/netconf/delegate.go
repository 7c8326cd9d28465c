package netconf

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Delegate is the plugin that makes the pod's interface from the device.
type Delegate struct {
	Plugin
	// Field is the key of the delegate's netconf that names the device.
	Field string
	// Shared says whether several pods may use the device through it.
	Shared bool
}

// delegateFields are the keys with which delegates are told their device, and
// whether the key wants the PCI address or the interface's name.
var delegateFields = map[string]bool{"deviceID": true, "pciBusID": true, "master": false, "device": false}

// knownDelegates have keys of their own for the device; the first is the usual.
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

// Keys of a delegate that only multi-eni may set: those that would lead to
// another device, and those that it inherits. They are reserved in any case:
// encoding/json, with which delegates read them, does not tell "Device" from
// "device".
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

// deviceField returns the key by which a delegate takes its device; "" with a
// fault when nobody knows.
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

// ReleasesAddresses says whether a delegate's successful DEL has always run its
// IPAM plugin's. host-device's has not when there is no netns, and of others we
// do not know.
func ReleasesAddresses(delegate string) bool { return knownDelegates[delegate].shared }

// MovesDevice says whether a delegate is known to put the device's own link into the
// pod. No other link there can then be the delegate's.
func MovesDevice(delegate string) bool {
	known, ok := knownDelegates[delegate]
	return ok && !known.shared
}

// AddressesAlone says whether an IPAM plugin is known to look at nothing but its
// own store, so that it can run while the device is still on its way into the
// container. dhcp is not one of them: it asks through the interface.
func AddressesAlone(ipam string) bool {
	switch ipam {
	case "host-local", "static", "whereabouts":
		return true
	}
	return false
}

// TakesPrevResult says whether ADD hands the result of an earlier plugin of the list to
// a delegate that reads it, so far as is known.
func (c *Config) TakesPrevResult() bool {
	if c.Delegate == nil || c.ENIIPAM != nil { // with eni-ipam it is the addresses
		return false
	}
	_, known := knownDelegates[c.Delegate.Type]
	return !known || c.Delegate.Type == "ipvlan"
}

// NeedsLink says whether the delegate is given the interface's name, so that
// the device must have one.
func (d *Delegate) NeedsLink() bool { return !delegateFields[d.Field] }

// Passthru says whether a macvlan delegate keeps the device's own MAC.
func (d *Delegate) Passthru() bool {
	var fields struct{ Mode string }
	return json.Unmarshal(d.Raw, &fields) == nil && fields.Mode == "passthru"
}

// DelegateConfig composes the delegate's netconf: its own keys, the device
// under Field, and what it inherits from multi-eni. Link is the interface's
// name and may be "" when the delegate does not need it; both are "" for GC and
// STATUS, which concern no device.
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

// IPAMConfig composes the netconf that an IPAM plugin gets: of multi-eni's, as CNI
// spec 1.1.0 section 4 has it, the keys that are every plugin's.
func (c *Config) IPAMConfig() (json.RawMessage, error) {
	conf := c.inherited(c.DeviceID)
	conf["type"] = Type
	if c.DeviceID != "" {
		conf["deviceID"] = c.DeviceID.String()
	}
	return compose(c.IPAM.Type, conf)
}

// PluginVersion is the version of the CNI spec in which other plugins are called. It is
// the netconf's, but for those before 0.3.0, whose results name no interface and
// cannot be without an address.
func (c *Config) PluginVersion() string {
	switch c.CNIVersion {
	case "", "0.1.0", "0.2.0":
		return "0.3.1"
	}
	return c.CNIVersion
}

// inherited are the keys that another plugin gets from multi-eni's netconf, for a
// device: none that has not been read.
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

// WithPrevResult returns a plugin's netconf with that prevResult.
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

// runtimeConfigFor keeps the runtime's deviceID in step with the device that
// was selected: host-device prefers it over its own keys. It has the MAC that the
// runtime asks for wherever it does.
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
