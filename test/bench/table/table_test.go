package table

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSample(t *testing.T) {
	for _, tc := range []struct {
		name               string
		in                 Sample
		least, median, p90 float64
	}{
		{"empty", nil, 0, 0, 0},
		{"one", Sample{3}, 3, 3, 3},
		{"odd, unsorted", Sample{5, 1, 3}, 1, 3, 5},
		{"even", Sample{4, 1, 2, 3}, 1, 2.5, 4},
		{"outlier", Sample{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000}, 1, 6, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := []float64{tc.in.Quantile(0), tc.in.Median(), tc.in.Quantile(0.9)}
			if diff := cmp.Diff([]float64{tc.least, tc.median, tc.p90}, got); diff != "" {
				t.Errorf("least, median, p90 (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRows(t *testing.T) {
	for _, tc := range []struct {
		name       string
		got        Row
		value, met string
	}{
		{"on the limit", Ratio("", Sample{3}, Sample{5}, 0.6), "0.60", "yes"},
		{"judged before it is rounded", Ratio("", Sample{0.6001}, Sample{1}, 0.6), "0.60", "no"},
		{"without a target", Ratio("", Sample{3}, Sample{2}, 0), "1.50", ""},
		{"nothing to compare with", Ratio("", Sample{3}, nil, 1), "not measured", ""},
		{"difference", Difference("", Sample{3}, Sample{1.5}, 1), "+1.50 ms", "no"},
		{"negative difference", Difference("", Sample{1}, Sample{1.5}, 1), "-0.50 ms", "yes"},
	} {
		if tc.got.Value != tc.value || tc.got.Met != tc.met {
			t.Errorf("%s: value %q, met %q; want %q, %q", tc.name, tc.got.Value, tc.got.Met, tc.value, tc.met)
		}
	}
}

// The columns line up however wide a cell is, counted in characters. Each item has a heading, and no column is empty.
func TestPrint(t *testing.T) {
	var b strings.Builder
	rows := []Row{
		Ratio("a ratio", Sample{1}, Sample{2}, 0.5), {Name: "x", Ours: "1 … 2"},
		Row{Name: "y", Ours: "1"}.About("(b) Item", "z"), Row{Name: "x"}.About("(b) Item", ""),
		Row{Name: "y"}.About("(c) Item", ""),
	}
	must(t, Print(&b, rows))
	const want = `|         | ours               | other              | ratio | target | met? |
| ------- | ------------------ | ------------------ | ----- | ------ | ---- |
| a ratio | 1.00 (1.00 … 1.00) | 2.00 (2.00 … 2.00) | 0.50  | ≤ 0.50 | yes  |
| x       | 1 … 2              |                    |       |        |      |

### (b) Item
|   | against | ours | other |
| - | ------- | ---- | ----- |
| y | z       | 1    |       |
| x |         |      |       |

### (c) Item
|   | ours | other |
| - | ---- | ----- |
| y |      |       |
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
