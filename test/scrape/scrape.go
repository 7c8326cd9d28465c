// Package scrape reads a registry as Prometheus does.
package scrape

import (
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
)

// Text returns the metrics of a namespace as text, with GO for Go's version.
func Text(t testing.TB, from prometheus.Gatherer, namespace string) string {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), namespace) {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return regexp.MustCompile(`goversion="[^"]+"`).ReplaceAllString(b.String(), `goversion="GO"`)
}

// Lint reports names and help texts of a namespace that break Prometheus' rules.
func Lint(t testing.TB, from prometheus.Gatherer, namespace string) {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	faults, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if strings.HasPrefix(f.Metric, namespace) {
			t.Errorf("%s: %s", f.Metric, f.Text)
		}
	}
}
