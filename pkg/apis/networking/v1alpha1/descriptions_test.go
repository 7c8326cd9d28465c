package v1alpha1

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// leaks are the words of a description that say how the API is written in Go.
var leaks = regexp.MustCompile(`(?i)\b(pointer|nil|struct|slice|golang|unmarshal\w*|zero value|type alias)\b|\bGo\b|\w+\(\)|---`)

// ofTheAPI are words that look like Go's and are the API's, or everybody's.
var ofTheAPI = []string{
	"NodeENI", "NodeENIs", "ENINodeState", "ENINodeStates", "DevicesReady", "ConfigCurrent", "DevicePluginServing",
	"NotFound", "RestartPending", "RestartFailed", "InvalidMTU", "IPv4", "IPv6",
	"OfferUnknown", "KubeletAway", "TakeoverRefused", "TakingOver", "HandingBack",
}

var (
	inCamelCase = regexp.MustCompile(`\b[A-Z]+[a-z0-9]+[A-Z]\w*|\b[A-Z]{2,}[a-z0-9]{2,}\w*`)
	inAPICase   = regexp.MustCompile(`\b[a-z]+[a-z0-9]*[A-Z]\w*`)
)

// TestDescriptions: kubectl explain shows no Go, and names each field as the API does.
func TestDescriptions(t *testing.T) {
	files, err := filepath.Glob("../../../../deploy/crd/*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatalf("CRDs %v, %v; want two", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd map[string]any
		if err := yaml.Unmarshal(text, &crd); err != nil {
			t.Fatal(err)
		}
		fields, described := map[string]bool{"generation": true}, map[string]string{}
		describe(crd, "", fields, described)
		if len(described) < 20 {
			t.Errorf("%s: only %d descriptions", file, len(described))
		}
		goNames := exported(t)
		for _, at := range slices.Sorted(maps.Keys(described)) {
			for _, fault := range faults(described[at], fields, goNames) {
				t.Errorf("%s: %s: %q in: %s", filepath.Base(file), at, fault, described[at])
			}
		}
	}
}

// TestFaults: the rule finds each fault.
func TestFaults(t *testing.T) {
	fields := map[string]bool{"dpdkDriver": true}
	for text, want := range map[string]string{
		"It is a pointer because false differs.": "pointer", "See Defaulted.": "Defaulted", "Bound to DPDKDriver.": "DPDKDriver",
		"The n-th has DeviceIndex+n.": "DeviceIndex", "Bound to driverName.": "driverName", "DeviceState is one row.": "DeviceState",
		"Bound to dpdkDriver by a NodeENI, with DPDK and an ENI ID.": "",
	} {
		if got := strings.Join(faults(text, fields, map[string]bool{"Defaulted": true}), " "); got != want {
			t.Errorf("faults of %q: %q, want %q", text, got, want)
		}
	}
}

// faults are the words of a description that are no words of the API's.
func faults(text string, fields, goNames map[string]bool) []string {
	found := leaks.FindAllString(text, -1)
	for _, word := range regexp.MustCompile(`\w+`).FindAllString(text, -1) {
		switch {
		case slices.Contains(ofTheAPI, word):
		case inCamelCase.FindString(word) == word, goNames[word], inAPICase.FindString(word) == word && !fields[word]:
			found = append(found, word)
		}
	}
	return found
}

// describe collects the names of the API's fields below a node of a CRD, and every
// description with its place. The API machinery describes its own.
func describe(node any, at string, fields map[string]bool, described map[string]string) {
	switch node := node.(type) {
	case []any:
		for _, e := range node {
			name := ""
			if column, ok := e.(map[string]any); ok {
				name, _ = column["name"].(string) // "" where the element has none
			}
			describe(e, at+"["+name+"]", fields, described)
		}
	case map[string]any:
		if text, ok := node["description"].(string); ok && !regexp.MustCompile(`\.(apiVersion|kind|metadata)$|conditions\[?\]?\.`).MatchString(at) {
			described[at] = strings.Join(strings.Fields(text), " ")
		}
		for key, value := range node {
			if properties, ok := value.(map[string]any); ok && key == "properties" {
				for name, property := range properties {
					fields[name] = true
					describe(property, at+"."+name, fields, described)
				}
				continue
			}
			describe(value, at, fields, described)
		}
	}
}

// exported are the names of the package's functions.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Name.IsExported() && !strings.HasSuffix(name, "_test.go") {
				out[f.Name.Name] = true
			}
		}
	}
	return out
}
