package table

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the figures of docs/performance.json into docs/performance.md")

// TestPage: docs/performance.md has the figures of docs/performance.json, all of
// them and no others.
func TestPage(t *testing.T) {
	const page, begins, ends = "../../../docs/performance.md", "<!-- figures of performance.json -->\n", "<!-- end of figures -->\n"
	figures, err := ReadFile("../../../docs/performance.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(figures.Rows) < 60 {
		t.Fatalf("docs/performance.json has %d rows: record a run of all items", len(figures.Rows))
	}
	var b strings.Builder
	if err := figures.Print(&b); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begins)
	written, after, ended := strings.Cut(rest, ends)
	if !ok || !ended {
		t.Fatalf("%s has no place for the figures", page)
	}
	if *update {
		if err := os.WriteFile(page, []byte(before+begins+b.String()+ends+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(written, b.String()); diff != "" {
		t.Errorf("docs/performance.md, run make generate (-is +wanted):\n%s", diff)
	}
}

// TestReportFile: a report survives its file.
func TestReportFile(t *testing.T) {
	file := t.TempDir() + "/x.json"
	want := Report{Machine: "m", Pairs: 1, SideBySide: 2, Rows: []Row{Ratio("≤ x", Sample{1}, Sample{2}, 0.5).About("(a)", "y"), {Name: "z", Fault: "f"}}}
	if err := want.WriteFile(file); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}
