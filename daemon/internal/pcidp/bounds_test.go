package pcidp

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestBounded: as many Problems as are listed stay; of more, the last stays and one says
// how many are not listed.
func TestBounded(t *testing.T) {
	all := make([]nodestate.Problem, maxProblems+5)
	for i := range all {
		all[i].Message = fmt.Sprint(i)
	}
	if got := bounded(all[:maxProblems]); len(got) != maxProblems || got[maxProblems-2].Message != fmt.Sprint(maxProblems-2) {
		t.Errorf("%d problems of %d: %v", len(got), maxProblems, got)
	}
	got := bounded(all)
	if len(got) != maxProblems || got[maxProblems-3].Message != fmt.Sprint(maxProblems-3) || got[maxProblems-1].Message != fmt.Sprint(maxProblems+4) ||
		!strings.HasPrefix(got[maxProblems-2].Message, "6 more problems ") {
		t.Errorf("%d problems of %d: %v", len(got), len(all), got)
	}
}

// TestClip: text of 200 octets stays whole.
func TestClip(t *testing.T) {
	fits := strings.Repeat("x", 200)
	if clip(fits) != fits || clip(fits+"y") != fits+"…" {
		t.Errorf("clip: %q, %q", clip(fits), clip(fits+"y"))
	}
}

// TestLargestConfig: a file of the largest size is read.
func TestLargestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	want := bytes.Repeat([]byte(" "), maxConfigSize)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readConfig(path); err != nil || len(got) != len(want) {
		t.Errorf("read %d octets, error %v", len(got), err)
	}
}

// TestRestless: a file that is being changed is a Problem after restlessAfter, and not before.
func TestRestless(t *testing.T) {
	n := newNode(t)
	begun := n.now
	for _, tt := range []struct {
		after    time.Duration
		problems int
	}{{0, 0}, {restlessAfter - 1, 0}, {restlessAfter, 1}} {
		n.now = begun.Add(tt.after)
		if got := n.file.later(Request{}, time.Second).Problems; len(got) != tt.problems {
			t.Errorf("after %v: %v, want %d problems", tt.after, got, tt.problems)
		}
	}
}

// TestWrittenIsTold: a changed file is told once, with its new content.
func TestWrittenIsTold(t *testing.T) {
	n := newNode(t)
	var told []string
	judge := n.file.Written
	n.file.Written = func(content []byte) { judge(content); told = append(told, string(content)) }
	for range 2 {
		if _, err := n.file.Apply(Request{Entries: standard, Node: here}); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 1 || told[0] != n.content() {
		t.Errorf("told %q, want the file's content once", told)
	}
}

// TestCopiesAreCounted: the message about copies counts further copies, and entries
// beyond the limit, and mentions neither where there is none.
func TestCopiesAreCounted(t *testing.T) {
	for _, tt := range []struct {
		copies, entries int
		want            string
	}{
		{1, maxLeftOutProblems, ""},
		{2, maxLeftOutProblems, "; so have 1 copies in all"},
		{maxAsides + 2, 1, "; so have 11 copies in all"},
		{1, maxLeftOutProblems + 2, "; 2 more entries were left out"},
	} {
		n := newNode(t)
		n.put("")
		for i := range tt.copies {
			var list []string
			for k := range tt.entries {
				list = append(list, fmt.Sprintf(`{"resourceName":"no.%d","selectors":{}}`, k))
			}
			name := fmt.Sprintf("%s%s20250304T0506%02dZ", n.file.Path, asideMark, i)
			if err := os.WriteFile(name, []byte(`{"resourceList":[`+strings.Join(list, ",")+`]}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(n.file.Path); err != nil {
			t.Fatal(err)
		}
		r, err := n.file.Apply(Request{Entries: standard, Node: here})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Problems {
			if p.Reason != "ConfigSetAside" {
				continue
			}
			_, got, _ := strings.Cut(p.Message, "that the config lacks")
			if got = strings.TrimSuffix(got, "; put back the parts you need and delete the copy"); got != tt.want {
				t.Errorf("%d copies with %d entries: %q, want %q", tt.copies, tt.entries, got, tt.want)
			}
		}
	}
}
