package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestRunsOnLaptops: the plugin needs no package of ours but those that are made for
// every system, and no package lacks its files there. `make release` builds it.
func TestRunsOnLaptops(t *testing.T) {
	const module = "github.com/multi-eni/multi-eni-cni/"
	portable := []string{"daemon/internal/cli", "daemon/internal/kube/outside", "daemon/internal/kubectl", "daemon/internal/show", "daemon/kubectl-multi_eni",
		"pkg/apis/networking/v1alpha1", "pkg/buildinfo", "pkg/device"}
	for _, system := range []string{"linux", "darwin"} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-f", "{{.ImportPath}} {{with .Error}}{{.}}{{end}}", ".")
		cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=arm64", "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for line := range strings.Lines(string(out)) {
			name, fault, _ := strings.Cut(strings.TrimSpace(line), " ")
			if fault != "" {
				t.Errorf("%s: %s: %s", system, name, fault)
			}
			if own, ok := strings.CutPrefix(name, module); ok {
				seen++
				if !slices.Contains(portable, own) {
					t.Errorf("%s: it imports %s, which may be for Linux only", system, own)
				}
			}
		}
		if seen != len(portable) {
			t.Errorf("%s: it imports %d packages of ours, want %d", system, seen, len(portable))
		}
	}
}
