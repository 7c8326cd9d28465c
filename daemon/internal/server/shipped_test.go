package server

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestShippedMetrics: alerts, dashboard and docs/operations.md speak of metrics
// that there are, and docs/operations.md of each.
func TestShippedMetrics(t *testing.T) {
	s := newServerAt(t, &clock{noon})
	s.Observe(busy())
	families, err := s.registry.Gather()
	must(t, err)
	var served []string
	for _, f := range families {
		served = append(served, f.GetName())
	}
	name := regexp.MustCompile(`multi_eni_[a-z_]+`)
	histogram := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, path := range []string{"deploy/components/monitoring/alerts.yaml", "deploy/components/monitoring/dashboard.json", "docs/operations.md"} {
		data, err := os.ReadFile("../../../" + path)
		must(t, err)
		for _, m := range name.FindAllString(string(data), -1) {
			if !slices.Contains(served, histogram.ReplaceAllString(m, "")) {
				t.Errorf("%s: there is no metric %s", path, m)
			}
		}
		for _, m := range served {
			if strings.HasPrefix(m, namespace) && strings.HasSuffix(path, ".md") && !strings.Contains(string(data), m) {
				t.Errorf("%s does not explain %s", path, m)
			}
		}
	}
}
