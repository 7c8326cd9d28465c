package monitoring

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	operator "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
)

// dashboard is the part of Grafana's model that can be wrong here.
type dashboard struct {
	Title      string `json:"title"`
	Templating struct {
		List []struct {
			Name  string          `json:"name"`
			Query json.RawMessage `json:"query"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID          int                      `json:"id"`
	Title       string                   `json:"title"`
	Description string                   `json:"description"`
	GridPos     struct{ X, Y, W, H int } `json:"gridPos"`
	Targets     []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(component, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

func metricsOf(t *testing.T, query string) (names []string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(query, "$node", "node-1"))
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return nil
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			names = append(names, v.Name)
		}
		return nil
	})
	return names
}

func TestDashboardShowsAlerts(t *testing.T) {
	shown := map[string]bool{}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			for _, name := range metricsOf(t, target.Expr) {
				shown[name] = true
			}
		}
	}
	var rule operator.PrometheusRule
	decode(t, "alerts.yaml", &rule)
	for _, g := range rule.Spec.Groups {
		for _, r := range g.Rules {
			names := metricsOf(t, r.Expr.String())
			if len(names) == 0 {
				t.Errorf("%s reads no metric", r.Alert)
			}
			for _, name := range names {
				if !shown[name] {
					t.Errorf("%s reads %s, which no panel shows", r.Alert, name)
				}
			}
		}
	}
}

// TestDashboard: each panel has an explanation and queries that Prometheus understands, and panels do not overlap.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.Title == "" || len(d.Panels) == 0 || len(d.Templating.List) != 2 {
		t.Errorf("title %q, %d panels, %d variables", d.Title, len(d.Panels), len(d.Templating.List))
	}
	ids := map[int]bool{}
	filled := map[[2]int]string{}
	for _, p := range d.Panels {
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 || ids[p.ID] {
			t.Errorf("panel %d %q: description %q, %d queries", p.ID, p.Title, p.Description, len(p.Targets))
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, taken := filled[[2]int{x, y}]; taken || x >= 24 {
					t.Fatalf("panel %q lies on %q or outside", p.Title, other)
				}
				filled[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			expr := strings.ReplaceAll(target.Expr, "$node", "node-1")
			if _, err := parser.NewParser(parser.Options{}).ParseExpr(expr); err != nil {
				t.Errorf("panel %q: %v", p.Title, err)
			}
			if !strings.Contains(target.Expr, "multi_eni_controller_") && !strings.Contains(target.Expr, `node=~"$node"`) {
				t.Errorf("panel %q: %s does not heed the chosen nodes", p.Title, target.Expr)
			}
		}
	}
}
