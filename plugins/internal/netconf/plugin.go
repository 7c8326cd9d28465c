package netconf

import (
	"encoding/json"
	"path/filepath"
	"strings"
)

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
