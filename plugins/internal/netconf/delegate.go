package netconf

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
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
		d.fault("deviceField", "%q: %s takes its device as %s; remove the key", field, typ, strings.Join(known.fields, " or "))
		field = ""
	}
	if ok && field == "" {
		return known.fields[0]
	}
	return field
}

func containsFold(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, key) })
}

// ReleasesAddresses says whether a delegate's successful DEL has always run its
// IPAM plugin's. host-device's has not when there is no netns, and of others we
// do not know.
func ReleasesAddresses(delegate string) bool { return knownDelegates[delegate].shared }

// MovesDevice says whether a delegate is known to put the device's own link into
// the pod, so that nothing else there can be what it has made.
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

// NeedsLink says whether the delegate is given the interface's name, so that
// the device must have one.
func (d *Delegate) NeedsLink() bool { return !delegateFields[d.Field] }

// Passthru says whether a macvlan delegate keeps the device's own MAC.
func (d *Delegate) Passthru() bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(d.Raw, &fields) == nil && unquote(fields["mode"]) == "passthru"
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
	maps.DeleteFunc(fields, func(key string, _ json.RawMessage) bool {
		return key == "deviceField" || containsFold(reservedDeviceKeys, key) || containsFold(inheritedKeys, key)
	})
	value := pci.String()
	if c.Delegate.NeedsLink() {
		value = link
	}
	runtime, err := c.runtimeConfigFor(pci)
	if err != nil {
		return nil, err
	}
	set := map[string]any{"cniVersion": c.CNIVersion, "name": c.Name}
	if value != "" {
		set[c.Delegate.Field] = value
	}
	if c.ValidAttachments != nil {
		set["cni.dev/valid-attachments"] = c.ValidAttachments
	}
	if _, given := fields["mtu"]; !given && mtu != 0 && c.Delegate.Shared {
		set["mtu"] = mtu
	}
	if c.IPAM != nil {
		set["ipam"] = c.IPAM.Raw
	}
	prev := c.PrevResult
	if c.ENIIPAM != nil {
		prev = nil // it will be the addresses
	}
	for key, raw := range map[string]json.RawMessage{"args": c.Args, "runtimeConfig": runtime, "prevResult": prev, "dns": c.DNS} {
		if raw != nil {
			set[key] = raw
		}
	}
	for key, v := range set {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("compose netconf of %s: %s: %w", c.Delegate.Type, key, err)
		}
		fields[key] = raw
	}
	return json.Marshal(fields)
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
// was selected: host-device prefers it over its own keys.
func (c *Config) runtimeConfigFor(pci device.PCIAddress) (json.RawMessage, error) {
	if c.RuntimeConfig == nil {
		return nil, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.RuntimeConfig, &fields); err != nil {
		return nil, fmt.Errorf("compose runtimeConfig: %w", err)
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
	return json.Marshal(fields)
}

func unquote(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// IPAMConfig composes the netconf that an IPAM plugin gets: the whole of
// multi-eni's, as CNI spec 1.1.0 section 4 has it.
func (c *Config) IPAMConfig() json.RawMessage { return c.Raw }
