package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// beyondSchema lists the faults that a JSON Schema of draft-07 cannot express, or only
// unreadably. docs/netconf.md lists them in the same order.
var beyondSchema = []*regexp.Regexp{
	regexp.MustCompile(`is given twice|in another spelling`),
	regexp.MustCompile(`names no device`), // Multus adds deviceID
	regexp.MustCompile(`want (a network|an address|a list of addresses) such as|without a zone`),
	regexp.MustCompile(`MAC address .*: invalid value|resource name .*: invalid value`), // all zero; 63 characters, Kubernetes' own prefixes
	regexp.MustCompile(`same IP family|has no fixed address`),
	regexp.MustCompile(`they must|but the runtime allocated`),
	regexp.MustCompile(`no plugin of this netconf uses it`),
	regexp.MustCompile(`: -?[0-9]+[.eE][^ ]*: want`), // 1500.0 and 1.5e3 are whole numbers for a schema
	regexp.MustCompile(`want an absolute path(;|$)`), // of another plugin, at any depth
	// A key in another spelling: plugins read it all the same.
	regexp.MustCompile(`^(delegate\.[^:]+: (multi-eni sets it|the delegate inherits it)|mtu: \d+, but delegate has an mtu|dns: |delegate\.[^:]+: unknown ` +
		`key|ipam\.[^:]+: unknown key \(did you mean type)`),
	regexp.MustCompile(`^delegate\.[^:]+: .*MAC address`),
}

func compiledSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile(schemaFile)
	must(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	must(t, err)
	c := jsonschema.NewCompiler()
	must(t, c.AddResource(schemaURL, doc))
	compiled, err := c.Compile(schemaURL)
	must(t, err)
	return compiled
}

func validate(s *jsonschema.Schema, text []byte) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// agree compares schema and plugin for a netconf. The schema accepts everything that
// libcni and the plugin accept, and refuses everything that the plugin refuses except
// beyondSchema.
func agree(t *testing.T, s *jsonschema.Schema, stdin []byte) {
	t.Helper()
	_, parseErr := Parse(stdin)
	_, libcniErr := libcni.NetworkPluginConfFromBytes(stdin)
	schemaErr := validate(s, stdin)
	switch {
	case parseErr == nil && libcniErr == nil && schemaErr != nil:
		t.Errorf("multi-eni takes %s, but the schema does not: %v", stdin, schemaErr)
	case parseErr != nil && schemaErr == nil:
		var invalid *InvalidError
		if !errors.As(parseErr, &invalid) {
			t.Errorf("the schema takes %s, but multi-eni: %v", stdin, parseErr)
			return
		}
		for _, f := range invalid.Faults {
			if !slices.ContainsFunc(beyondSchema, func(r *regexp.Regexp) bool { return r.MatchString(f.Path + ": " + f.Problem) }) {
				t.Errorf("the schema takes %s, but multi-eni: %s: %s", stdin, f.Path, f.Problem)
			}
		}
	}
}

// asNetconf returns a text with the type multi-eni, as a runtime passes it; nil if it is
// no JSON object.
func asNetconf(text []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil || fields == nil {
		return nil
	}
	fields["type"] = json.RawMessage(`"` + Type + `"`)
	out, err := json.Marshal(fields)
	if err != nil {
		return nil
	}
	return out
}

func ofAnother(text []byte) bool {
	c, err := libcni.NetworkPluginConfFromBytes(text)
	var fields map[string]json.RawMessage
	if err != nil || json.Unmarshal(text, &fields) != nil || fields["plugins"] != nil {
		return false
	}
	typ := unquote(fields["type"])
	return typ == c.Network.Type && typ != "" && typ != Type
}

// FuzzSchema: schema and plugin agree on any netconf, and on another plugin's with
// eni-ipam.
func FuzzSchema(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add([]byte(text))
	}
	s := compiledSchema(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := ParseIPAM(text); err == nil && ofAnother(text) {
			if err := validate(s, text); err != nil {
				t.Errorf("eni-ipam takes %s, but the schema does not: %v", text, err)
			}
		}
		if stdin := asNetconf(text); stdin != nil {
			agree(t, s, stdin)
		}
	})
}

// corpus returns the netconfs of this package's tests: every text of a with(…), and every
// whole netconf, valid or not.
func corpus(t testing.TB) (out []string) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile("`([^`\n]*)`").FindAllStringSubmatch(string(text), -1) {
			for _, one := range []string{m[1], with(m[1]), with(`,"ipam":{"type":"eni-ipam",` + m[1] + `}`), with(`,"delegate":` + m[1])} {
				if json.Valid([]byte(one)) && strings.HasPrefix(one, "{") {
					out = append(out, one)
				}
			}
		}
	}
	if len(out) < 300 {
		t.Fatalf("only %d netconfs in the tests", len(out))
	}
	return out
}

// TestSchemaAgrees: schema and plugin agree on every netconf of this package's tests, also
// with a key added or changed.
func TestSchemaAgrees(t *testing.T) {
	s := compiledSchema(t)
	for _, text := range corpus(t) {
		if stdin := asNetconf([]byte(text)); stdin != nil {
			agree(t, s, stdin)
		}
	}
	values := []string{"null", `""`, "0", "1", "68", "-1", "1.5", "70000", "true", "[]", "{}", `"x"`, `["x"]`, `[null]`, `[{}]`, `{"type":"x"}`,
		`{"type":"eni-ipam"}`,
		`{"type":"ipvlan"}`, `"0000:00:07.0"`, `"02:00:00:00:00:01"`, `"/x"`, `"/x/"`, `"1.1.0"`, `{"x":1}`, `[{"dst":"10.0.0.0/8"}]`, `[{"dst":"vpc"}]`,
		`"debug"`, `"0000:00:1f.7"`, `"0000:00:2f.0"`, "67", "255", "256", "3600", "3601", "65535", "65536", "2147483647", "2147483648"}
	for _, key := range slices.Concat(specKeys, ownKeys, []string{"cni.dev/x", "cni.dev/valid-attachments", "x"}) {
		for _, value := range values {
			if stdin := asNetconf([]byte(with(`,"` + key + `":` + value))); stdin != nil {
				agree(t, s, stdin)
			}
		}
	}
	for object, keys := range map[string][]string{
		`,"select":{%s}`: selectKeys, `,"routes":[{"dst":"10.0.0.0/8",%s}]`: routeKeys, `,"ipam":{"type":"eni-ipam",%s}`: keysOf(ENIIPAM{}),
		`,"ipam":{"type":"eni-ipam",%s},"delegate":{"type":"macvlan"}`: keysOf(ENIIPAM{}), `,"delegate":{"type":"macvlan",%s},"mtu":1500`: {"mode", "mtu", "mac",
			"deviceField", "master", "ipam", "type"},
		`,"delegate":{"type":"host-device",%s}`: {"deviceField", "device"}, `,"delegate":{"type":"other",%s}`: {"deviceField"},
		`,"runtimeConfig":{%s}`: {"deviceID", "mac", "ips", "CNIDeviceInfoFile"},
		`,"args":{"cni":{%s}}`:  {"mac", "ips"}, `,"dns":{%s}`: {"nameservers", "domain"}, `,"cni.dev/valid-attachments":[{"containerID":"a",%s}]`: {"ifname"},
	} {
		for _, key := range keys {
			for _, value := range values {
				if stdin := asNetconf([]byte(with(strings.Replace(object, "%s", `"`+key+`":`+value, 1)))); stdin != nil {
					agree(t, s, stdin)
				}
			}
		}
	}
}

// TestSamplesBySchema: the schema accepts every sample of conf/ and every netconf and
// conflist in README.md and docs/.
func TestSamplesBySchema(t *testing.T) {
	s := compiledSchema(t)
	check := func(where, text string) {
		if err := validate(s, []byte(text)); err != nil {
			t.Errorf("%s: %v\n%s", where, err, text)
		}
	}
	for folder, ext := range map[string]string{"netconf": ".json", "conflist": ".conflist"} {
		for name, text := range sampleFiles(t, folder, ext) {
			check(name, text)
		}
	}
	for name, text := range sampleFiles(t, "pods", ".yaml") {
		for _, netconf := range netconfsIn(text) {
			check(name, netconf)
		}
	}
	pages, err := filepath.Glob("../../../docs/*.md")
	must(t, err)
	found := 0
	for _, page := range append(pages, "../../../README.md") {
		text, err := os.ReadFile(page)
		must(t, err)
		for _, netconf := range netconfsIn(string(text)) {
			check(page, netconf)
			found++
		}
	}
	if found < 3 {
		t.Errorf("only %d netconfs in README.md and docs/", found)
	}
}

// netconfsIn returns the JSON objects of a text that have a type and a name, or plugins.
func netconfsIn(text string) (out []string) {
	for i := 0; i < len(text); i++ {
		if text[i] != '{' {
			continue
		}
		dec := json.NewDecoder(strings.NewReader(text[i:]))
		var fields map[string]any
		if dec.Decode(&fields) != nil {
			continue
		}
		end := i + int(dec.InputOffset())
		if fields["name"] != nil && (fields["type"] != nil || fields["plugins"] != nil) {
			out = append(out, text[i:end])
			i = end
		}
	}
	return out
}
