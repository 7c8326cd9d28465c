package netconf

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

//go:generate go test . -run "^(TestReference|TestSchema)$" -update

const (
	reference = "../../../docs/netconf.md"
	schemaURL = "https://raw.githubusercontent.com/multi-eni/multi-eni-cni/main/conf/netconf.schema.json"
)

var sources = []string{"netconf.go", "route.go", "eniipam.go", "delegate.go", "../../../pkg/nodestate/policy.go"}

func TestReference(t *testing.T) {
	made := makeReference(t)
	if *update {
		must(t, os.WriteFile(reference, []byte(made), 0o644))
	}
	written, err := os.ReadFile(reference)
	must(t, err)
	equal(t, string(written), made, "docs/netconf.md, run make generate")
}

// TestTaggedKeysAreRead: every key of the reference is allowed in a netconf, and is read.
func TestTaggedKeysAreRead(t *testing.T) {
	for _, key := range slices.Concat(keysOf(Config{}), keysOf(Paths{})) {
		_, err := Parse([]byte(`{"cniVersion":"1.1.0","name":"n","select":{"nodeENI":"a"},"` + key + `":[[1.5]]}`))
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s with a value that none can have: %v", key, err)
		}
	}
	for object, keys := range map[string][]string{`"select":{%q:[1.5]}`: keysOf(Select{}),
		`"select":{"nodeENI":"a"},"routes":[{"dst":"10.0.0.0/8",%q:[1.5]}]`: keysOf(Route{})} {
		for _, key := range keys {
			_, err := Parse([]byte(`{"cniVersion":"1.1.0","name":"n",` + fmt.Sprintf(object, key) + `}`))
			if err == nil || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "unknown key") {
				t.Errorf("%s with a value that none can have: %v", key, err)
			}
		}
	}
}

func makeReference(t *testing.T) string {
	t.Helper()
	p := &page{t: t, docs: comments(t, sources...)}
	p.text(introduction, editors)
	p.keys("At the top", "`type` is `multi-eni`.", "Config", Config{}, "key")
	p.keys("select", aboutSelect, "Select", Select{}, "key")
	p.keys("routes[]", "Routes have the form of a CNI 1.1.0 result. Only `dst` is required.", "Route", Route{}, "key")
	p.keys("ipam of type eni-ipam", aboutENIIPAM, "ENIIPAM", ENIIPAM{}, "key")
	p.delegates()
	p.requests()
	p.keys("Paths", "Use these keys only on a node without a policy, as with cnitool or in tests. With a policy, ADD refuses them, and `ipam.dataDir` of\n"+
		"eni-ipam, with 105. The values below are the defaults.", "Paths", Paths{}, "key")
	p.keys("The policy", "`/etc/multi-eni/policy.json` belongs to the node, and `multi-enid install` writes it. [conf/policy.json](../conf/policy.json) is\n"+
		"the default.", "Policy", Policy{}, "json")
	return p.String()
}

const introduction = `# Netconf reference

<!-- Made of the code by make generate. -->

This page is for people who write a netconf of multi-eni: the ` + "`spec.config`" + ` of a NetworkAttachmentDefinition, or an entry of a conflist's
` + "`plugins`" + `. It lists every key. Whole examples are in [conf/](../conf/README.md).

multi-eni refuses a faulty netconf with code 7. The message names all faults at once, each with its key, its value and the way out. A key that is
not listed here is a fault, unless the CNI spec or Multus defines it. A key that an object has twice, or in two spellings (` + "`dataDir`, `DataDir`" + `),
is a fault too, because plugins do not tell these apart.
`

const editors = `
## Check it in an editor
[conf/netconf.schema.json](../conf/netconf.schema.json) is a JSON Schema of netconfs and conflists. With it, an editor completes the keys, explains
them, and marks most faults while you type. It is of draft-07, the newest draft that VS Code and yaml-language-server support in full. For VS
Code, put this into ` + "`.vscode/settings.json`" + `:

    {"files.associations": {"*.conflist": "json"},
     "json.schemas": [{"fileMatch": ["conf/netconf/*.json", "*.conflist"], "url": "./conf/netconf.schema.json"}]}

Or name the schema in the file. multi-eni and libcni ignore the key ` + "`$schema`" + `, so it may stay there:

    "$schema": "` + schemaURL + `"

A NetworkAttachmentDefinition holds its netconf as a string in YAML, and no editor looks into that string. Write the netconf into a file of its own,
or copy it there:

    kubectl get network-attachment-definition dataplane-a -o jsonpath='{.spec.config}' > dataplane-a.json

The schema refuses nothing that multi-eni accepts. It does not see these faults:

- a key that an object has twice, or in another spelling
- a netconf that selects no device, since Multus may add one
- an address, a network, a MAC address or a resource name of the right form that does not exist
- two keys that must fit each other: a route's ` + "`gw` and `dst`" + `, or the same request in two places
- a request that no plugin of the netconf uses
- a whole number that is written as 1500.0 or 1.5e3
- a relative path in a key of another plugin
`

const aboutSelect = `Every key must match the device. If several devices match, the pod gets the first free one in the order of PCI addresses. Pods that share a
device need a selection that matches exactly one; otherwise ADD fails with 7.

When a pod gets the ENI, the host loses the default routes through it. If pods share the ENI, ADD removes these routes. ADD fails with 102 if the
node needs one of them: the only one of its IP family, or one that has other next hops too. It also fails with 102 for any default route through a
device that the inventory does not have.`

const aboutENIIPAM = "`eni-ipam` gives the addresses that the inventory lists for the ENI, with the prefix length of their subnet. It asks nothing of AWS " +
	"and runs no other\n" +
	"plugin. A pod that owns the ENI (no delegate, or host-device, sriov …) gets the ENI's addresses. Pods that share it (ipvlan, macvlan) each\n" +
	"lease one that is not the ENI's own: a secondary address, or one from a delegated prefix. `runtimeConfig.ips` (capability `ips`), `args.cni.ips`\n" +
	"and `IP` in `CNI_ARGS` choose among them. Any other type is an IPAM plugin in the runtime's folder, or in the policy's, with keys of its own.\n\n" +
	"Other plugins than multi-eni can name `eni-ipam` too, since it is in the runtime's folder. It then finds the ENI by their `master`, `device`,\n" +
	"`deviceID` or `pciBusID`, or by `ipam.select`. That key is like `select` above; `ipam.inventory` names the inventory."

type page struct {
	strings.Builder
	t    *testing.T
	docs map[string]string
}

func (p *page) text(parts ...string) {
	for _, part := range parts {
		p.WriteString(part)
	}
}

func (p *page) keys(title, above, structName string, of any, tag string) {
	p.t.Helper()
	p.text("\n## "+title+"\n", above, "\n\n")
	for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
		key, example, _ := strings.Cut(f.Tag.Get(tag), ",")
		if key == "" {
			continue
		}
		doc := p.docs[structName+"."+f.Name]
		if doc == "" {
			p.t.Errorf("%s.%s has no comment, and so no meaning", structName, f.Name)
		}
		if tag == "json" {
			example = map[reflect.Kind]string{reflect.Int: "number", reflect.String: "text", reflect.Slice: "list of text", reflect.Map: "object"}[f.Type.Kind()]
		} else {
			example = "`" + example + "`"
		}
		example = strings.NewReplacer("`object`", "object", "`list of objects`", "list of objects").Replace(example)
		p.text(item(fmt.Sprintf("- `%s` (%s): %s", key, example, doc)))
	}
}

func item(words string) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(words) {
		switch width := utf8.RuneCountInString(word); {
		case column == 0:
			b.WriteString(word)
			column = width
		case column+1+width > 148:
			b.WriteString("\n  " + word)
			column = 2 + width
		default:
			b.WriteString(" " + word)
			column += 1 + width
		}
	}
	return b.String() + "\n"
}

func (p *page) delegates() {
	p.text("\n## delegate\nThis is the delegate's own netconf, with its `type` and its own keys. multi-eni adds the device, `name`, `cniVersion`, `ipam`, " +
		"`args`,\n" +
		"`runtimeConfig`, `prevResult` and `dns`, so none of these may be in `delegate`. The `mtu` above works with every delegate. A delegate may have its own " +
		"`mtu`\n" +
		"instead, but not besides.\n\n| type | pods per device | key for the device |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(knownDelegates)) {
		d := knownDelegates[name]
		holders := "one"
		if d.shared {
			holders = "several"
		}
		fmt.Fprintf(p, "| `%s` | %s | `%s` |\n", name, holders, strings.Join(d.fields, "`; with `deviceField` also `"))
	}
	p.text("| any other | one | give it in `deviceField`: `" + strings.Join(slices.Sorted(maps.Keys(delegateFields)), "`, `") + "` |\n")
}

func (p *page) requests() {
	p.text("\n## Requests of the runtime\nA runtime can request things in three places: `runtimeConfig`, by the capabilities that the netconf declares, " +
		"`args.cni`, and `CNI_ARGS`. " +
		"Each request\nneeds a plugin that uses it. If none does, ADD fails with 7, or with 4 for `CNI_ARGS`. A MAC must be the same in all places. ADD fails " +
		"with 102 if\n" +
		"the VPC does not deliver to the requested MAC, or if the pod does not get a requested address. multi-eni does not know plugins that are not in\n" +
		"the table, and passes them every request.\n\n| plugin | runtimeConfig | args.cni | CNI_ARGS |\n|---|---|---|---|\n")
	for _, typ := range slices.Sorted(maps.Keys(takers)) {
		fmt.Fprintf(p, "| `%s` |", typ)
		for _, keys := range [][]string{takers[typ].capabilities, takers[typ].args, takers[typ].environment} {
			fmt.Fprintf(p, " %s |", strings.ReplaceAll("`"+strings.Join(keys, "`, `")+"`", "``", ""))
		}
		p.text("\n")
	}
	p.text("\nOther keys of `args` and `CNI_ARGS` may be for another plugin of the list, so multi-eni passes them on. `dns` replaces the DNS settings of " +
		"the\naddress plugin.\n")
}

// comments returns the comments of struct fields, in one line, by struct and field. The
// text behind a line --- is for readers of the code.
func comments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		must(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						doc, _, _ := strings.Cut(f.Doc.Text(), "---\n")
						out[spec.Name.Name+"."+name.Name] = strings.ReplaceAll(strings.TrimSpace(doc), "\n", " ")
					}
				}
			}
			return true
		})
	}
	return out
}
