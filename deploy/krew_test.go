package deploy

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestKrewManifest: the manifest has Krew's required fields, and an archive for each system that people run kubectl on.
func TestKrewManifest(t *testing.T) {
	data, err := os.ReadFile("krew/multi-eni.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Version, Homepage, ShortDescription, Description string
			Platforms                                        []struct {
				Selector         struct{ MatchLabels map[string]string }
				URI, SHA256, Bin string
			}
		}
	}
	if err := yaml.UnmarshalStrict(data, &m); err != nil {
		t.Fatal(err)
	}
	if m.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || m.Kind != "Plugin" || m.Metadata.Name != "multi-eni" || m.Spec.Version != "v0.0.0" ||
		m.Spec.Homepage == "" || m.Spec.Description == "" || len(m.Spec.ShortDescription) > 50 {
		t.Errorf("head: %+v", m)
	}
	want := []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}
	if len(m.Spec.Platforms) != len(want) {
		t.Fatalf("%d platforms, want %v", len(m.Spec.Platforms), want)
	}
	for i, p := range m.Spec.Platforms {
		os, arch, _ := strings.Cut(want[i], "/")
		uri := "https://github.com/multi-eni/multi-eni-cni/releases/download/v0.0.0/kubectl-multi_eni_v0.0.0_" + os + "_" + arch + ".tar.gz"
		if p.Selector.MatchLabels["os"] != os || p.Selector.MatchLabels["arch"] != arch || p.URI != uri || len(p.SHA256) != 64 || p.Bin != "kubectl-multi_eni" {
			t.Errorf("%s: %+v", want[i], p)
		}
	}
}
