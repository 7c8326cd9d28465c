package netconf

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/version"
)

const schemaFile = "../../../conf/netconf.schema.json"

// schema is a JSON Schema of draft-07, the newest draft that VS Code and
// yaml-language-server support in full.
type schema = map[string]any

// Forms of strings. An empty string counts as absent, so each pattern allows it.
const (
	formMAC = `^([0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}|[0-9a-fA-F][02468aceACE](-[0-9a-fA-F]{2}){5}|` +
		`[0-9a-fA-F][02468aceACE][0-9a-fA-F]{2}(\.[0-9a-fA-F]{4}){2})?$`
	formPCI      = `^([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7])?$`
	formENI      = `^(eni-([0-9a-f]{8}|[0-9a-f]{17}))?$`
	formSubnet   = `^(subnet-([0-9a-f]{8}|[0-9a-f]{17}))?$`
	label        = `[a-z0-9]([a-z0-9-]*[a-z0-9])?`
	formResource = `^(` + label + `(\.` + label + `)*/[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)?$`
	formPath     = `^(/|(/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+))+)?$`
	formAddress  = `^[0-9A-Fa-f:.]*$`
	formNetwork  = `[0-9A-Fa-f:.]+/[0-9]{1,3}`
	formPlugin   = `^[^./\\\x00 ][^/\\\x00 ]*$`
	formName     = `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`
)

func TestSchema(t *testing.T) {
	made := bytes.Buffer{}
	enc := json.NewEncoder(&made)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	must(t, enc.Encode(makeSchema(t)))
	if *update {
		must(t, os.WriteFile(schemaFile, made.Bytes(), 0o644))
	}
	written, err := os.ReadFile(schemaFile)
	must(t, err)
	equal(t, string(written), made.String(), "conf/netconf.schema.json, run make generate")
}

func makeSchema(t *testing.T) schema {
	t.Helper()
	g := generator{t, comments(t, sources...)}
	return schema{
		"$schema": "http://json-schema.org/draft-07/schema#", "$id": schemaURL,
		"title":       "multi-eni netconf or conflist",
		"description": "The netconf of multi-eni, a CNI conflist with it, or the netconf of another plugin with ipam of type eni-ipam.",
		"$comment":    "Made of the code by make generate. How to use it in an editor: docs/netconf.md.",
		"type":        "object",
		"definitions": schema{"netconf": g.netconf(), "conflist": g.conflist(), "otherPlugin": g.otherPlugin()},
		"if":          schema{"required": []string{"plugins"}},
		"then":        schema{"$ref": "#/definitions/conflist"},
		"else": schema{
			"required": []string{"type"},
			"if":       where("type", Type),
			"then":     schema{"allOf": []schema{{"$ref": "#/definitions/netconf"}, {"required": []string{"name"}}}},
			"else":     schema{"$ref": "#/definitions/otherPlugin"},
		},
	}
}

type generator struct {
	t    *testing.T
	docs map[string]string
}

// properties makes the tagged keys of a struct: descriptions from its comments, examples
// from its tags, and forms from a list with the same keys.
func (g generator) properties(name string, of any, forms map[string]schema) schema {
	out := schema{}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
		key, example, _ := strings.Cut(f.Tag.Get("key"), ",")
		if key == "" {
			continue
		}
		form, ok := forms[key]
		if !ok {
			g.t.Errorf("%s.%s has no form", name, key)
		}
		p := maps.Clone(form)
		p["description"] = strings.ReplaceAll(g.docs[name+"."+f.Name], "`", "")
		var value any
		if json.Unmarshal([]byte(example), &value) == nil {
			p["examples"] = []any{value}
		}
		out[key] = p
	}
	if len(out) != len(forms) {
		g.t.Errorf("%s: forms %v, want those of %v", name, slices.Sorted(maps.Keys(forms)), slices.Sorted(maps.Keys(out)))
	}
	return out
}

func (g generator) selection() schema {
	return closed(g.properties("Select", Select{}, map[string]schema{
		"nodeENI": text(""), "eniID": text(formENI), "mac": text(formMAC), "subnetID": text(formSubnet), "pciAddress": text(formPCI),
		"resourceName": {"type": []string{"string", "null"}, "pattern": formResource, "maxLength": 68},
	}))
}

func (g generator) routes(network string) schema {
	item := closed(g.properties("Route", Route{}, map[string]schema{
		"dst": {"type": "string", "pattern": "^(" + network + ")$"}, "gw": text(formAddress), "mtu": octets(),
		"advmss": whole(0, 65535), "priority": whole(0, 1<<31-1), "table": whole(0, 1<<31-1), "scope": whole(0, 255),
	}))
	item["type"], item["required"] = "object", []string{"dst"}
	return schema{"type": []string{"array", "null"}, "items": item}
}

func (g generator) eniIPAM(more schema) schema {
	p := g.properties("ENIIPAM", ENIIPAM{}, map[string]schema{
		"addresses": choice(addressesOne, addressesOne, addressesAll),
		"families":  {"type": []string{"array", "null"}, "items": schema{"enum": []string{"ipv4", "ipv6"}}, "minItems": 1, "uniqueItems": true},
		"routes":    g.routes(dstVPC + "|" + formNetwork),
		"coolDown":  whole(0, 3600),
		"dataDir":   path(DefaultPaths().LeaseDir),
	})
	maps.Copy(p, more)
	p["type"] = schema{"const": ENIIPAMType}
	return closed(p)
}

// ipam is the key ipam. The keys of types other than eni-ipam are not checked.
func (g generator) ipam(eniIPAM schema) schema {
	pluginType := schema{"type": "string", "pattern": formPlugin, "examples": []string{ENIIPAMType, "host-local", "static", "whereabouts", "dhcp"},
		"description": "eni-ipam, or the file name of another IPAM plugin."}
	return schema{
		"type": []string{"object", "null"}, "properties": schema{"type": pluginType},
		"if":   both(where("type", ENIIPAMType), schema{"required": []string{"type"}}),
		"then": eniIPAM,
		"else": schema{"if": schema{"minProperties": 1}, "then": schema{"required": []string{"type"}}},
	}
}

func (g generator) delegate() schema {
	p := schema{
		"type": schema{"type": "string", "pattern": formPlugin, "examples": slices.Sorted(maps.Keys(knownDelegates)),
			"description": "File name of the CNI plugin that makes the pod's interface."},
		"deviceField": schema{"type": []string{"string", "null"},
			"description": "Key by which the delegate takes its device. Required for a delegate that multi-eni does not know."},
		"mtu": schema{"description": "MTU of the pod's interface in octets, instead of the mtu beside delegate."},
	}
	for _, key := range reservedDeviceKeys {
		p[key] = never("multi-eni sets this key to the selected device; remove it")
	}
	for _, key := range inheritedKeys {
		p[key] = never("the delegate inherits this key; write it beside delegate, not inside")
	}
	var byType []schema
	for _, name := range slices.Sorted(maps.Keys(knownDelegates)) {
		then := schema{"deviceField": schema{"enum": []any{knownDelegates[name].fields[0], "", nil}}}
		if fields := knownDelegates[name].fields; len(fields) > 1 {
			then["deviceField"] = schema{"enum": []any{fields[0], fields[1], "", nil}}
		}
		if slices.Contains(takers[name].capabilities, "mac") {
			then["mac"] = text(formMAC)
		}
		byType = append(byType, schema{"if": both(where("type", name), schema{"required": []string{"type"}}), "then": schema{"properties": then}})
	}
	unknown := schema{"properties": schema{"type": schema{"not": schema{"enum": slices.Sorted(maps.Keys(knownDelegates))}}}, "required": []string{"type"}}
	byType = append(byType, schema{"if": unknown, "then": schema{
		"required":   []string{"deviceField"},
		"properties": schema{"deviceField": schema{"enum": slices.Sorted(maps.Keys(delegateFields))}},
	}})
	return schema{"type": []string{"object", "null"}, "required": []string{"type"}, "properties": p, "allOf": byType}
}

// netconf is an entry of a conflist; with its name required, a netconf.
func (g generator) netconf() schema {
	paths := DefaultPaths()
	p := g.properties("Config", Config{}, map[string]schema{
		"cniVersion": {"enum": cniVersions()}, "name": {"type": "string", "pattern": formName},
		"select": g.selection(), "deviceID": text(formPCI), "delegate": g.delegate(), "ipam": g.ipam(g.eniIPAM(nil)),
		"mtu": octets(), "routes": g.routes(formNetwork),
	})
	maps.Copy(p, g.properties("Paths", Paths{}, map[string]schema{
		"dataDir": path(paths.DataDir), "inventory": path(paths.Inventory), "sysfs": path(paths.Sysfs), "logFile": path(paths.LogFile),
		"logLevel": choice(paths.LogLevel, logLevels...),
	}))
	for key, of := range injected() {
		p[key] = of
	}
	out := closed(p)
	out["type"] = "object"
	out["required"] = []string{"type"}
	out["patternProperties"] = schema{`^cni\.dev/`: schema{}}
	out["allOf"] = together()
	return out
}

// injected are the keys that the CNI spec defines for every plugin, or that runtimes add.
func injected() schema {
	strings := schema{"type": []string{"array", "null"}, "items": schema{"type": []string{"string", "null"}}}
	ips := schema{"type": []string{"array", "null"}, "items": schema{"type": "string"}, "description": "Addresses that the pod requests."}
	return schema{
		"$schema":      schema{"description": "Address of this schema, for editors. multi-eni ignores it."},
		"type":         schema{"const": Type},
		"cniVersions":  schema{"description": "Read by the runtime."},
		"disableCheck": schema{"description": "Read by the runtime."}, "disableGC": schema{"description": "Read by the runtime."},
		"loadOnlyInlinedPlugins": schema{"description": "Read by the runtime."},
		"capabilities": schema{
			"type": []string{"object", "null"}, "additionalProperties": schema{"type": []string{"boolean", "null"}},
			"description": "Requests that the runtime may pass in runtimeConfig. Give deviceID, so that Multus passes the device that the kubelet has allocated.",
			"examples":    []any{schema{"deviceID": true}},
		},
		"args": schema{"type": []string{"object", "null"}, "description": "Requests for this pod.", "properties": schema{"cni": schema{
			"type": []string{"object", "null"}, "properties": schema{"mac": text(formMAC), "ips": ips}}}},
		"runtimeConfig": schema{
			"type": []string{"object", "null"}, "description": "Written by the runtime, as capabilities declares it.",
			"properties": schema{"deviceID": text(formPCI), "mac": text(formMAC), "ips": ips, "CNIDeviceInfoFile": path("")},
		},
		"dns": schema{
			"type": []string{"object", "null"}, "description": "DNS settings of the pod, instead of those of the IPAM plugin.",
			"properties": schema{"nameservers": strings, "search": strings, "options": strings, "domain": text("")},
		},
		"prevResult": schema{"type": []string{"object", "null"}, "description": "Written by the runtime."},
		"pciBusID":   schema{"type": []string{"string", "null"}, "pattern": formPCI, "description": "Written by Multus, as deviceID."},
		"cni.dev/valid-attachments": schema{
			"type": []string{"array", "null"}, "description": "Written by the runtime for GC.",
			"items": schema{
				"type": "object", "required": []string{"containerID", "ifname"},
				"properties": schema{"containerID": schema{"type": "string", "minLength": 1}, "ifname": schema{"type": "string", "minLength": 1}},
			},
		},
	}
}

func together() []schema {
	var sharing []string
	for name, d := range knownDelegates {
		if d.shared {
			sharing = append(sharing, name)
		}
	}
	slices.Sort(sharing)
	delegate := func(is schema) schema {
		return schema{"properties": schema{"delegate": both(schema{"type": "object"}, is)}, "required": []string{"delegate"}}
	}
	ofENIIPAM := func(key string, is schema) schema {
		return schema{"properties": schema{"ipam": schema{
			"if":   both(where("type", ENIIPAMType), schema{"required": []string{"type"}}),
			"then": schema{"properties": schema{key: is}},
		}}}
	}
	typed := func(types ...string) schema {
		return schema{"properties": schema{"type": schema{"enum": types}}, "required": []string{"type"}}
	}
	return []schema{
		{"if": delegate(schema{"required": []string{"mtu"}}), "then": schema{"properties": schema{"mtu": schema{
			"enum": []any{0, nil}, "errorMessage": "delegate has an mtu of its own; remove one of them"}}}},
		{
			"if":   delegate(typed(sharing...)),
			"then": ofENIIPAM("addresses", schema{"not": schema{"const": addressesAll}, "errorMessage": `"all" is for a pod that owns the ENI; remove the key`}),
			"else": ofENIIPAM("coolDown", schema{"type": "null", "errorMessage": "only pods that share the ENI lease addresses; remove the key"}),
		},
		{"if": delegate(typed("vlan")), "then": schema{"properties": schema{"ipam": schema{"properties": schema{"type": schema{
			"not":          schema{"const": ENIIPAMType},
			"errorMessage": "the VPC does not deliver the ENI's addresses inside a VLAN; use delegate ipvlan, or another IPAM plugin"}}}}}},
	}
}

func (g generator) conflist() schema {
	return schema{
		"type": "object", "required": []string{"name", "plugins"},
		"properties": schema{
			"$schema":    schema{"description": "Address of this schema, for editors."},
			"cniVersion": schema{"enum": cniVersions(), "description": "Version of the CNI spec for every plugin of the list."},
			"name":       schema{"type": "string", "pattern": formName, "description": "Name of the network."},
			"plugins": schema{"type": "array", "minItems": 1, "description": "Plugins in the order of ADD. Put multi-eni first.", "items": schema{
				"type": "object", "required": []string{"type"},
				"if":   where("type", Type),
				"then": schema{"$ref": "#/definitions/netconf"}, "else": schema{"$ref": "#/definitions/otherPlugin"},
			}},
		},
	}
}

func (g generator) otherPlugin() schema {
	found := g.selection()
	found["description"] = "The ENI, if no other key of the netconf names it. The keys are those of select."
	inventory := path(DefaultPaths().Inventory)
	inventory["description"] = "The daemon's list of the node's devices."
	return schema{
		"type": "object", "required": []string{"type"},
		"properties": schema{
			"type": schema{"type": "string", "examples": []string{Type}, "description": "File name of the CNI plugin."},
			"ipam": schema{
				"if":   both(schema{"type": "object"}, both(where("type", ENIIPAMType), schema{"required": []string{"type"}})),
				"then": g.eniIPAM(schema{"select": found, "inventory": inventory}),
			},
		},
	}
}

func cniVersions() []any {
	out := []any{}
	for _, v := range slices.Backward(version.All.SupportedVersions()) {
		out = append(out, v)
	}
	return append(out, "", nil)
}

// A key that is null is absent, so each form allows it.

func text(pattern string) schema {
	out := schema{"type": []string{"string", "null"}}
	if pattern != "" {
		out["pattern"] = pattern
	}
	return out
}

func path(byDefault string) schema {
	out := text(formPath)
	out["default"] = byDefault
	return out
}

func choice(byDefault string, values ...string) schema {
	out := []any{}
	for _, v := range values {
		out = append(out, v)
	}
	return schema{"enum": append(out, "", nil), "default": byDefault}
}

func whole(low, high int) schema {
	return schema{"type": []string{"integer", "null"}, "minimum": low, "maximum": high}
}

func octets() schema {
	out := whole(0, 65535)
	out["anyOf"] = []schema{{"minimum": 68}, {"enum": []int{0}}}
	return out
}

func closed(properties schema) schema {
	return schema{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
}

func never(why string) schema {
	return schema{"not": schema{}, "errorMessage": why, "doNotSuggest": true}
}

func where(key, is string) schema { return schema{"properties": schema{key: schema{"const": is}}} }

func both(a, b schema) schema {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}
