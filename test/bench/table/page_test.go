package table

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the figures of docs/performance.json into docs/performance.md")

func TestPage(t *testing.T) {
	const page, begins, ends = "../../../docs/performance.md", "<!-- figures of performance.json -->\n", "<!-- end of figures -->\n"
	figures, err := ReadFile("../../../docs/performance.json")
	must(t, err)
	if len(figures.Rows) < 60 {
		t.Fatalf("docs/performance.json has %d rows: record a run of all items", len(figures.Rows))
	}
	var b strings.Builder
	must(t, figures.Print(&b))
	data, err := os.ReadFile(page)
	must(t, err)
	before, rest, ok := strings.Cut(string(data), begins)
	written, after, ended := strings.Cut(rest, ends)
	if !ok || !ended {
		t.Fatalf("%s has no place for the figures", page)
	}
	if *update {
		must(t, os.WriteFile(page, []byte(before+begins+b.String()+ends+after), 0o644))
		return
	}
	if diff := cmp.Diff(written, b.String()); diff != "" {
		t.Errorf("docs/performance.md, run make generate (-is +wanted):\n%s", diff)
	}
}

func TestReportFile(t *testing.T) {
	file := t.TempDir() + "/x.json"
	want := Report{Machine: "m", Pairs: 1, SideBySide: 2, Rows: []Row{Ratio("≤ x", Sample{1}, Sample{2}, 0.5).About("(a)", "y"), {Name: "z", Fault: "f"}}}
	must(t, want.WriteFile(file))
	got, err := ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

// TestHeadlines: the leading sentences of the page and of the README have the rounded figures of docs/performance.json.
func TestHeadlines(t *testing.T) {
	figures, err := ReadFile("../../../docs/performance.json")
	must(t, err)
	row := func(letter, name, against string) Row {
		for _, r := range figures.Rows {
			if strings.HasPrefix(r.Item, letter) && r.Name == name && r.Against == against {
				return r
			}
		}
		t.Fatalf("no row %s %s against %s", letter, name, against)
		return Row{}
	}
	more := func(r Row) float64 { return 100*r.OursMedian/r.OtherMedian - 100 }
	const pair, shared, theirs, alone = "exclusive ADD + DEL, eni-ipam", "shared macvlan ADD + DEL, eni-ipam", "host-device, host-local",
		"macvlan alone, host-local"
	one, eight, crowd := row("(a)", pair, theirs), row("(h)", pair, theirs), row("(i)", "exclusive, eni-ipam", theirs)
	share, shares, floor := row("(c)", shared, alone), row("(h)", shared, alone), row("(b)", pair, "the floor")
	start, memory := row("(d)", "VERSION", "host-device"), row("(g)", "exclusive ADD, eni-ipam", theirs)
	for page, wanted := range map[string][]string{
		"docs/performance.md": {
			fmt.Sprintf("own ENI %s, %s and %s of host-device's time; shared ENI %s and %s of macvlan's; start-up %s, memory %s",
				one.Value, eight.Value, crowd.Value, share.Value, shares.Value, start.Value, memory.Value),
			fmt.Sprintf("%.0f ms instead of %.0f ms for ADD and DEL together", one.OursMedian, one.OtherMedian),
			fmt.Sprintf("(*the floor*) takes %.0f ms", floor.OtherMedian),
			fmt.Sprintf("The plugin adds %.0f ms", floor.OursMedian-floor.OtherMedian),
			fmt.Sprintf("waits %.0f %% longer than with macvlan alone, and %.0f %% longer when eight pods start at once", more(share), more(shares)),
			fmt.Sprintf("after %.1f s instead of %.1f s", crowd.OursMedian/1000, crowd.OtherMedian/1000),
		},
		"README.md": {fmt.Sprintf("That is %.0f %% more than the kernel's bare move", more(floor))},
	} {
		data, err := os.ReadFile("../../../" + page)
		must(t, err)
		text := strings.Join(strings.Fields(string(data)), " ")
		for _, w := range wanted {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not say %q", page, w)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
