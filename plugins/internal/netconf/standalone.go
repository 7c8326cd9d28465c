package netconf

import "github.com/multi-eni/multi-eni-cni/pkg/device"

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
