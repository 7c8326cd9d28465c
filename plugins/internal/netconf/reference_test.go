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

	"github.com/google/go-cmp/cmp"
)

const reference = "../../../docs/netconf.md"

// TestReference: docs/netconf.md is made of the structs of a netconf and their
// comments, and is up to date.
func TestReference(t *testing.T) {
	made := makeReference(t)
	if *update {
		if err := os.WriteFile(reference, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(written), made); diff != "" {
		t.Errorf("docs/netconf.md, run go test ./plugins/internal/netconf -run Reference -update (-is +wanted):\n%s", diff)
	}
}

// TestTaggedKeysAreRead: a key that the reference has is one that a netconf may
// have, and that is looked at.
func TestTaggedKeysAreRead(t *testing.T) {
	for _, key := range slices.Concat(keysOf(Config{}), keysOf(Paths{})) {
		_, err := Parse([]byte(`{"cniVersion":"1.1.0","name":"n","select":{"nodeENI":"a"},"` + key + `":[[1.5]]}`))
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s with a value that none can have: %v", key, err)
		}
	}
	for object, keys := range map[string][]string{`"select":{%q:[1.5]}`: keysOf(Select{}), `"select":{"nodeENI":"a"},"routes":[{"dst":"10.0.0.0/8",%q:[1.5]}]`: keysOf(Route{})} {
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
	docs := comments(t, "netconf.go", "route.go", "eniipam.go", "delegate.go", "../../../pkg/nodestate/policy.go")
	var b strings.Builder
	table := func(title, above, structName string, of any, tag string) {
		fmt.Fprintf(&b, "\n## %s\n%s\n\n| key | value | meaning |\n|---|---|---|\n", title, above)
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			key, example, _ := strings.Cut(f.Tag.Get(tag), ",")
			if key == "" {
				continue
			}
			doc := docs[structName+"."+f.Name]
			for _, be := range []string{" is ", " are "} { // as Go's comments begin
				if rest, ok := strings.CutPrefix(doc, f.Name+be); ok {
					doc = strings.ToUpper(rest[:1]) + rest[1:]
				}
			}
			if doc == "" {
				t.Errorf("%s.%s has no comment, and so no meaning", structName, f.Name)
			}
			if tag == "json" {
				example = map[reflect.Kind]string{reflect.Int: "number", reflect.String: "text", reflect.Slice: "list of text", reflect.Map: "object"}[f.Type.Kind()]
			} else {
				example = "`" + example + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", key, strings.NewReplacer("`object`", "object", "`list of objects`", "list of objects").Replace(example), doc)
		}
	}
	b.WriteString(`# Netconf reference

<!-- Made of the code by: go test ./plugins/internal/netconf -run Reference -update -->

What a NetworkAttachmentDefinition's ` + "`spec.config`" + `, or a plugin's entry of a conflist, may have. Every fault is refused with code 7, all
of them at once, each with its key, its value and the way out. A key that is not listed here, and that the CNI spec or Multus does not
bring, is a fault too, and so is a key that an object has twice, or in two spellings (` + "`dataDir`, `DataDir`" + `): plugins do not tell these apart. Whole examples are in [conf/](../conf/README.md).
`)
	table("At the top", "`type` is `multi-eni`.", "Config", Config{}, "key")
	table("select", "Every key that is given must hold. Of several devices that match, the pod gets the first by PCI address that is free. One that pods share must be the\nonly one that matches; else ADD fails with 7.\n\nThe host's default routes by the ENI leave with it. If pods share the ENI, ADD removes these routes. ADD fails with 102 if the node needs one of them:\nthe only one of its family, or one that has other next hops too. It also fails with 102 for any default route by a device that the inventory does not have.", "Select", Select{}, "key")
	table("routes[]", "As in the result of the CNI spec 1.1.0; only `dst` must be given.", "Route", Route{}, "key")
	table("ipam of type eni-ipam", "The addresses that the inventory has for the ENI, with the length of their subnet; nothing is asked of AWS, and no other plugin is run. Who has\nthe ENI to himself (no delegate, or host-device, sriov …) has its addresses. Pods that share it (ipvlan, macvlan) get each a lease of one that is not\nthe ENI's own: a secondary address, or one out of a delegated prefix. `runtimeConfig.ips` (capability `ips`), `args.cni.ips`\nand `IP` in `CNI_ARGS` choose among them. Every other type is an IPAM plugin in the runtime's folder, or the policy's, with keys of its own.\n\nOther plugins than multi-eni may name `eni-ipam` too: it is in the runtime's folder. It then finds the ENI by their `master`, `device`, `deviceID` or\n`pciBusID`, or by `ipam.select`, which is like `select` above, in the `inventory` of that key.", "ENIIPAM", ENIIPAM{}, "key")
	b.WriteString("\n## delegate\nIts netconf, with its `type` and the keys of its own. multi-eni adds the device, `name`, `cniVersion`, `ipam`, `args`, `runtimeConfig`,\n`prevResult` and `dns`; none of these may be in it. The `mtu` above holds with every delegate; where the delegate's part has one of its own, that one\nholds, and both are a fault.\n\n| type | pods with the device | key for the device |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(knownDelegates)) {
		d := knownDelegates[name]
		holders := "one"
		if d.shared {
			holders = "several"
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` |\n", name, holders, strings.Join(d.fields, "`, or by `deviceField` `"))
	}
	b.WriteString("| any other | one | the one that `deviceField` names: `" + strings.Join(slices.Sorted(maps.Keys(delegateFields)), "`, `") + "` |\n")
	b.WriteString("\n## What a runtime asks for\nBy the capabilities that the netconf declares (`runtimeConfig`), by `args.cni`, and by `CNI_ARGS`. Each is carried out by one of these, or refused\n(7; 4 in `CNI_ARGS`): nothing is passed over. A MAC must be the same in all places, and the device's own where the VPC delivers to no other (102);\nan address that was asked for must be among those given (102). Of plugins that are not listed nothing is known: they get all of it.\n\n| plugin | runtimeConfig | args.cni | CNI_ARGS |\n|---|---|---|---|\n")
	for _, typ := range slices.Sorted(maps.Keys(takers)) {
		fmt.Fprintf(&b, "| `%s` |", typ)
		for _, keys := range [][]string{takers[typ].capabilities, takers[typ].args, takers[typ].environment} {
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll("`"+strings.Join(keys, "`, `")+"`", "``", ""))
		}
		b.WriteString("\n")
	}
	b.WriteString("\nOther keys of `args` and `CNI_ARGS` may be meant for another plugin of the list, and are handed on. `dns` takes the place of the address plugin's.\n")
	table("Paths", "Only where the node has no policy (cnitool, tests). Under a policy they, and `ipam.dataDir` of eni-ipam, are refused with code 105. The values are the defaults.", "Paths", Paths{}, "key")
	table("The policy", "`/etc/multi-eni/policy.json` is the node's, not the netconf's; the installer writes it. [conf/policy.json](../conf/policy.json) is the default.", "Policy", Policy{}, "json")
	return b.String()
}

// comments are those of the fields of structs, in one line, by struct and field.
func comments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						out[spec.Name.Name+"."+name.Name] = strings.ReplaceAll(strings.TrimSpace(f.Doc.Text()), "\n", " ")
					}
				}
			}
			return true
		})
	}
	return out
}
