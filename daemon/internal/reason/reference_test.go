package reason

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	godiff "github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

//go:generate go test . -run TestReference -update

var update = flag.Bool("update", false, "write the generated parts of the documents")

// The pages with generated parts, and the marks around a part.
const (
	troubleshooting = "../../../docs/troubleshooting.md"
	operations      = "../../../docs/operations.md"
	begin           = "<!-- Made of daemon/internal/reason by make generate: %s -->\n"
	end             = "<!-- End of the generated part -->\n"
)

// TestReference: the documents explain each Reason with the messages of the code.
func TestReference(t *testing.T) {
	messages := readMessages(t)
	for _, part := range []struct{ page, name, text string }{
		{troubleshooting, "index of messages", index(messages)},
		{troubleshooting, "reasons", sections(messages)},
		{operations, "conditions", conditionTable()},
		{operations, "events", eventTable()},
	} {
		content, err := os.ReadFile(part.page)
		if err != nil {
			t.Fatal(err)
		}
		mark := fmt.Sprintf(begin, part.name)
		before, rest, ok := strings.Cut(string(content), mark)
		is, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("%s has no part %q", part.page, part.name)
		}
		if *update {
			if err := os.WriteFile(part.page, []byte(before+mark+part.text+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := godiff.Diff(is, part.text); diff != "" {
			t.Errorf("%s, run make generate (-is +wanted):\n%s", part.page, diff)
		}
	}
}

// TestEachReasonIsExplained: the table has each constant once, and the code uses it; each Reason that is seen with a message has one.
func TestEachReasonIsExplained(t *testing.T) {
	named := map[nodestate.Reason]int{}
	messages := readMessages(t)
	code := readTexts(t)
	for _, g := range Groups() {
		for _, e := range g.Entries {
			named[e.Reason]++
			if e.Meaning == "" || e.Kind == Problem && e.Remedy == "" {
				t.Errorf("%s is not explained", e.Reason)
			}
			if len(messages[e.Reason]) == 0 && e.Kind != Condition {
				t.Errorf("%s has no message that a reader could search; give its Entry one in Seen", e.Reason)
			}
			for _, seen := range e.Seen {
				for part := range strings.SplitSeq(seen, value) {
					if part = strings.Trim(part, ` ";:`); !strings.Contains(code, strings.ReplaceAll(part, "("+string(e.Reason)+")", "("+value+")")) {
						t.Errorf("%s: no code says %q of %q", e.Reason, part, seen)
					}
				}
			}
			if (e.Kind == Condition) != (e.Of != "") || (e.Kind == Event) != (e.About != "") {
				t.Errorf("%s: kind %d, of %q, about %q", e.Reason, e.Kind, e.Of, e.About)
			}
		}
	}
	for name := range constants(t) {
		if named[name] != 1 {
			t.Errorf("%s stands in the table %d times", name, named[name])
		}
	}
	used := uses(t)
	for name := range named {
		if !used[name] {
			t.Errorf("no code gives the reason %s", name)
		}
	}
}

// value marks a place in a message that has another value each time.
const value = "…"

var word = regexp.MustCompile(`\pL{2,}`)

// start is a message up to the semicolon after its first words. People search for it.
func start(message string) string {
	head := ""
	for clause := range strings.SplitAfterSeq(message, "; ") {
		if head += clause; len(word.FindAllString(head, 3)) == 3 {
			break
		}
	}
	return strings.TrimSpace(regexp.MustCompile(`(`+value+`)+`).ReplaceAllString(head, value))
}

// sortKey is a message without the values that it begins with.
func sortKey(message string) string {
	return strings.ToLower(strings.TrimLeft(message, value+` "'.,:()`))
}

// index is a table from the beginnings of messages to the headings.
func index(messages map[nodestate.Reason][]string) string {
	type row struct{ text, heading string }
	var rows []row
	for _, g := range Groups() {
		for _, e := range g.Entries {
			for _, m := range messages[e.Reason] {
				rows = append(rows, row{shorten(m), string(e.Reason)})
			}
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(sortKey(a.text), sortKey(b.text)), cmp.Compare(a.heading, b.heading))
	})
	var b strings.Builder
	b.WriteString("| message | heading |\n|---|---|\n")
	for _, r := range slices.Compact(rows) {
		fmt.Fprintf(&b, "| `%s` | [%s](#%s) |\n", r.text, r.heading, strings.ToLower(r.heading))
	}
	return b.String()
}

// shorten keeps a row of the index within a line.
func shorten(message string) string {
	const most = 84
	if r := []rune(message); len(r) > most {
		cut := string(r[:most])
		return strings.TrimRight(cut[:strings.LastIndex(cut, " ")], " "+value) + " " + value
	}
	return message
}

// sections has a heading for each Reason.
func sections(messages map[nodestate.Reason][]string) string {
	var b strings.Builder
	for _, g := range Groups() {
		fmt.Fprintf(&b, "\n## %s\n", g.Title)
		if g.Intro != "" {
			fmt.Fprintf(&b, "%s\n", fold("", g.Intro))
		}
		for _, e := range g.Entries {
			fmt.Fprintf(&b, "\n### %s\n%s\n", e.Reason, fold("", e.Meaning))
			if e.Remedy != "" {
				fmt.Fprintf(&b, "\n%s\n", fold("", "**To do:** "+e.Remedy))
			}
			var texts []string
			for _, m := range messages[e.Reason] {
				if text := fold("- ", "`"+m+"`"); !slices.Contains(texts, text) {
					texts = append(texts, text)
				}
			}
			if texts != nil {
				fmt.Fprintf(&b, "\n%s\n", strings.Join(texts, "\n"))
			}
			if d := Delay(e.Reason); d > 0 {
				fmt.Fprintf(&b, "\nIts Event is sent once it has lasted for %.0f s.\n", d.Seconds())
			}
		}
	}
	return b.String()
}

// fold breaks a paragraph, or a point of a list, into lines.
func fold(bullet, text string) string {
	var lines []string
	line := bullet
	for w := range strings.FieldsSeq(text) {
		if len([]rune(line))+len([]rune(w)) > 140 {
			lines, line = append(lines, strings.TrimRight(line, " ")), strings.Repeat(" ", len(bullet))
		}
		line += w + " "
	}
	return strings.Join(append(lines, strings.TrimRight(line, " ")), "\n")
}

func conditionTable() string {
	var b strings.Builder
	of := ""
	each(Condition, func(e Entry) {
		if e.Of != of {
			of = e.Of
			fmt.Fprintf(&b, "- `%s`\n", of)
		}
		fmt.Fprintf(&b, "%s\n", fold("  - ", link(e)+": "+e.Meaning))
	})
	return b.String()
}

func eventTable() string {
	var b strings.Builder
	each(Event, func(e Entry) { fmt.Fprintf(&b, "%s\n", fold("- ", link(e)+", about "+e.About+": "+e.Meaning)) })
	return b.String()
}

func link(e Entry) string {
	return fmt.Sprintf("[`%s`](troubleshooting.md#%s)", e.Reason, strings.ToLower(string(e.Reason)))
}

func each(kind Kind, do func(Entry)) {
	for _, g := range Groups() {
		for _, e := range g.Entries {
			if e.Kind == kind {
				do(e)
			}
		}
	}
}

// readMessages collects the messages of each Reason, from the table and from the code of the daemon, which it reads without running it.
func readMessages(t *testing.T) map[nodestate.Reason][]string {
	t.Helper()
	found := map[nodestate.Reason][]string{}
	for _, g := range Groups() {
		for _, e := range g.Entries {
			found[e.Reason] = append(found[e.Reason], e.Seen...)
		}
	}
	for _, f := range daemonSources(t) {
		for _, m := range messagesIn(f) {
			if text := start(m.text); strings.Count(sortKey(text), " ") > 1 && !slices.Contains(found[m.reason], text) {
				found[m.reason] = append(found[m.reason], text)
			}
		}
	}
	return found
}

// daemonFiles are the sources of the daemon, without tests and this package.
func daemonFiles(t *testing.T) (paths []string) {
	t.Helper()
	for _, pattern := range []string{"../../*.go", "../*/*.go", "../*/*/*.go"} {
		all, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if !strings.HasSuffix(p, "_test.go") && filepath.Base(filepath.Dir(p)) != "reason" {
				paths = append(paths, p)
			}
		}
	}
	slices.Sort(paths)
	return paths
}
