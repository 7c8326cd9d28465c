package conf_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loaders are the tests that load this folder's files; Go lets no test here import the internal parsers.
var loaders = map[string]string{
	"conflist":            "plugins/internal/netconf/samples_test.go",
	"netconf":             "plugins/internal/netconf/samples_test.go",
	"netconf.schema.json": "plugins/internal/netconf/schema_test.go",
	"nodeenis":            "daemon/internal/manifest/samples_test.go",
	"pcidp":               "daemon/internal/pcidp/samples_test.go",
	"pods":                "plugins/internal/netconf/samples_test.go",
	"policy.json":         "plugins/internal/netconf/samples_test.go",
}

func TestEverySampleIsLoaded(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range entries {
		if e.Name() == "README.md" || e.Name() == "conf_test.go" {
			continue
		}
		loader, ok := loaders[e.Name()]
		if !ok {
			t.Errorf("no test loads %s", e.Name())
			continue
		}
		found++
		if source, err := os.ReadFile(filepath.Join("..", loader)); err != nil || !strings.Contains(string(source), e.Name()) {
			t.Errorf("%s does not load %s: %v", loader, e.Name(), err)
		}
		files := []string{e.Name()}
		if e.IsDir() {
			if files, err = filepath.Glob(e.Name() + "/*"); err != nil || len(files) == 0 {
				t.Errorf("no samples in %s: %v", e.Name(), err)
			}
		}
		for _, f := range files {
			if info, err := os.Stat(f); err != nil || !info.Mode().IsRegular() {
				t.Errorf("%s is no file, so no test loads it: %v", f, err)
			}
			if !strings.Contains(string(readme), "["+f+"]("+f+")") {
				t.Errorf("README.md does not name %s", f)
			}
		}
	}
	if found != len(loaders) {
		t.Errorf("%d of %d kinds of samples are here", found, len(loaders))
	}
}
