package pcidp

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

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
	if got := bounded(all[:maxProblems+1]); len(got) != maxProblems || !strings.HasPrefix(got[maxProblems-2].Message, "2 more problems ") {
		t.Errorf("%d problems of %d: %v", len(got), maxProblems+1, got)
	}
}

func TestClip(t *testing.T) {
	fits := strings.Repeat("x", 200)
	if clip(fits) != fits || clip(fits+"y") != fits+"…" {
		t.Errorf("clip: %q, %q", clip(fits), clip(fits+"y"))
	}
}

func TestLargestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	want := bytes.Repeat([]byte(" "), maxConfigSize)
	must(t, os.WriteFile(path, want, 0o600))
	if got, err := readConfig(path); err != nil || len(got) != len(want) {
		t.Errorf("read %d octets, error %v", len(got), err)
	}
}

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

// TestCopiesOfOneSecond: all but the first have a number from 2, and there are 100 at most.
func TestCopiesOfOneSecond(t *testing.T) {
	n := newNode(t)
	n.put("")
	base := n.file.Path + asideMark + "20260304T050607Z"
	for i := 1; i <= maxAsidePerSecond; i++ {
		want := fmt.Sprintf("%s-%d", base, i)
		if i == 1 {
			want = base
		}
		if i > 3 && i < maxAsidePerSecond { // few are made by writeAside, which waits for the disk
			if err := os.WriteFile(want, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := n.file.writeAside(nil); got != want || err != nil {
			t.Errorf("copy %d is %s, error %v; want %s", i, got, err, want)
		}
	}
	if got, err := n.file.writeAside(nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another copy is %q, error %v; want none", got, err)
	}
}

// TestAllowedCopiesStay: no copy is deleted while there are not more than ten, not even an
// equal one.
func TestAllowedCopiesStay(t *testing.T) {
	n := newNode(t)
	n.put("")
	for i := range maxAsides {
		if err := os.WriteFile(fmt.Sprintf("%s%s20250304T0506%02dZ", n.file.Path, asideMark, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.file.prune(value(n.file.asides()), nil)
	if got := len(n.asides()); got != maxAsides {
		t.Errorf("%d copies; want %d", got, maxAsides)
	}
}

// TestCopiesAreReadOnce: a copy is read again when its size or time is another, and
// forgotten when it is deleted.
func TestCopiesAreReadOnce(t *testing.T) {
	n := newNode(t)
	n.put("")
	paths := []string{n.file.Path + asideMark + "20250304T050607Z", n.file.Path + asideMark + "20250304T050608Z"}
	write := func(path, text string, at time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		text, want string
		at         time.Time
	}{{"{1}", "{1}", n.now}, {"{2}", "{1}", n.now}, {"{3}", "{3}", n.now.Add(time.Second)}, {"{10}", "{10}", n.now.Add(time.Second)}} {
		for _, path := range paths {
			write(path, tt.text, tt.at)
			if got := string(n.file.asideContent(path)); got != tt.want {
				t.Errorf("content %q of %v: got %q; want %q", tt.text, tt.at, got, tt.want)
			}
		}
	}
	if err := os.Remove(paths[0]); err != nil {
		t.Fatal(err)
	}
	n.file.asideProblems(value(n.file.asides()), Request{}, Rendering{})
	if _, ok := n.file.read[paths[1]]; !ok || len(n.file.read) != 1 {
		t.Errorf("%d copies are remembered; want the one that exists", len(n.file.read))
	}
}

// TestNewPrefixes: an entry of people's that is read as ours since the device plugin's prefix is
// another stays. One that was written beside ours is the second of its name.
func TestNewPrefixes(t *testing.T) {
	const theirs = `{"resourceName":"nic1","selectors":{"vendors":["8086"]}}`
	ours := []Entry{{"openshift.io/nic1", []Selector{{[]string{"ena"}, []device.PCIAddress{"0000:00:06.0"}}}, []string{"mine"}}}
	for name, written := range map[string]string{"other prefix": "intel.com", "same prefix": "openshift.io"} {
		n := newNode(t)
		n.file.Written = nil
		request := func(prefix string) Request {
			node := here
			node.Prefixes = []string{prefix}
			return Request{Entries: ours, Owned: []device.ResourceName{"openshift.io/nic1"}, Node: node}
		}
		n.put(`{"resourceList":[]}`)
		value(n.file.Apply(request(written)))
		end := strings.LastIndex(n.content(), "]")
		n.put(n.content()[:end] + "," + theirs + n.content()[end:])
		r := value(n.file.Apply(request("openshift.io")))
		if leftOut := len(find(r.Problems, "DuplicateEntry")) > 0; leftOut != (name == "same prefix") {
			t.Errorf("%s: left out %t, problems %v", name, leftOut, r.Problems)
		}
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
			must(t, os.WriteFile(name, []byte(`{"resourceList":[`+strings.Join(list, ",")+`]}`), 0o600))
		}
		must(t, os.Remove(n.file.Path))
		r, err := n.file.Apply(Request{Entries: standard, Node: here})
		must(t, err)
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
