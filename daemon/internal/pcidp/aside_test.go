package pcidp

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (n *node) restart() {
	n.file = File{Path: n.file.Path, Now: n.file.Now, Written: n.file.Written}
}

func find(problems []nodestate.Problem, reason string) []nodestate.Problem {
	return slices.DeleteFunc(slices.Clone(problems), func(p nodestate.Problem) bool { return string(p.Reason) != reason })
}

// The Problem of a left-out entry stays while the copy has something that the config has not, also after restarts.
func TestReasonStays(t *testing.T) {
	const bad = `{"resourceName":"sf","resourcePrefix":"nvidia.com","deviceType":"auxNetDevice","selectors":[{"vendors":["15b3"],"pfNames":["p0#1"]}]}`
	mended := strings.Replace(bad, `"vendors"`, `"auxTypes":["sf"],"vendors"`, 1)
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `,` + bad + `]}`)
	check := func(when string, r Result) {
		t.Helper()
		if diff := cmp.Diff([]string{"FatalEntry", "ConfigSetAside"}, reasons(r)); diff != "" {
			t.Fatalf("%s: problems (-want +got):\n%s", when, diff)
		}
		for _, want := range []string{"nvidia.com/sf", "auxTypes", "put it back", "delete " + r.Problems[1].Device} {
			if !strings.Contains(r.Problems[0].Message, want) {
				t.Errorf("%s: %q; want %q in it", when, r.Problems[0].Message, want)
			}
		}
	}
	check("left out", n.apply(standard))
	said := n.apply(standard)
	check("later", said)
	n.restart()
	if after := n.apply(standard); !cmp.Equal(said.Problems, after.Problems) {
		t.Errorf("after a restart (-before +after):\n%s", cmp.Diff(said.Problems, after.Problems))
	}
	// Put back as it was, it is left out again, without another Problem or copy.
	n.put(strings.Replace(n.content(), `"resourceList": [`, `"resourceList": [`+bad+`,`, 1))
	n.now = n.now.Add(time.Minute)
	check("put back", n.apply(standard))
	n.put(`{"resourceList":[` + foreign + `,` + bad + `]}`)
	check("the same file put back", n.apply(standard))
	if got := len(n.asides()); got != 2 {
		t.Errorf("%d copies; want one of each content", got)
	}
	// Corrected and put back, it is no Problem any more, though the copies stay.
	n.put(`{"resourceList":[` + foreign + `,` + mended + `]}`)
	if r := n.apply(standard); r.Problems != nil || len(n.asides()) != 2 {
		t.Errorf("after it was corrected: problems %+v, %d copies", r.Problems, len(n.asides()))
	}
	// Taken out again, it is missing again, until the copies are deleted.
	n.put(`{"resourceList":[` + foreign + `]}`)
	check("deleted", n.apply(standard))
	for _, a := range value(n.file.asides()) {
		must(t, os.Remove(a.path))
	}
	if r := n.apply(standard); r.Problems != nil {
		t.Errorf("after the copies were deleted: %+v", r.Problems)
	}
}

// Only the deletion of the copy says that a second entry of a name is not missed. An entry is not back because another
// has its name.
func TestReasonOfSecondStays(t *testing.T) {
	for name, second := range map[string]string{
		"duplicate": `{"resourceName":"theirs","selectors":{"vendors":["8086"]}}`,
		"fatal too": `{"resourceName":"theirs"}`,
	} {
		n := newNode(t)
		n.put(`{"resourceList":[` + foreign + `,` + second + `]}`)
		for range 2 {
			if r := n.apply(standard); len(r.Problems) != 2 || r.Problems[1].Reason != "ConfigSetAside" {
				t.Errorf("%s: problems %+v; want the entry and the copy", name, r.Problems)
			}
			n.restart()
		}
	}
}

func TestCopyOfEarlierRelease(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	older := `{"resourceList":[` + foreign + `,{"resourceName":"numa0-pf1","selectors":{}}]}`
	must(t, os.WriteFile(n.file.Path+".corrupt-20250304T050607Z", []byte(older), 0o644))
	r := n.apply(standard)
	if len(r.Problems) != 1 || r.Problems[0].Reason != "ConfigSetAside" || !strings.Contains(r.Problems[0].Message, "intel.com/numa0-pf1") {
		t.Errorf("problems %+v; want the entry named", r.Problems)
	}
	n.put(strings.Replace(n.content(), `"resourceList": [`, `"resourceList": [{"resourceName":"numa0-pf1","selectors":{}},`, 1))
	if r := n.apply(standard); len(find(r.Problems, "ConfigSetAside")) > 0 {
		t.Errorf("after it was put back: %+v", r.Problems)
	}
}

// The newest ten copies stay; one line tells of them; nothing else is deleted.
func TestCopiesAreBounded(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	dir := filepath.Dir(n.file.Path)
	var keep []string
	for i, name := range []string{
		".corrupt-backup", ".corrupt-20260304", ".corrupt-20200101T000000Z.old", ".corrupt-20200101T000000Z-", ".bak", ".corrupt-20200101T000000Z-1234",
	} {
		keep = append(keep, "config.json"+name)
		must(t, os.WriteFile(filepath.Join(dir, keep[i]), []byte("mine"), 0o644))
	}
	must(t, os.Symlink("config.json", filepath.Join(dir, "config.json.corrupt-20200101T000000Z-7")))
	keep = append(keep, "config.json.corrupt-20200101T000000Z-7", "config.json")
	for i := range 1600 {
		name := fmt.Sprintf("config.json.corrupt-2025%02d%02dT000000Z-%d", 1+i/160, 1+i%160/8, 2+i%8)
		must(t, os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, "garbage %d", i/2), 0o644))
		if i >= 1600-20 && i%2 == 1 { // of two equal ones the newer stays
			keep = append(keep, name)
		}
	}
	for range 2 {
		r := n.apply(standard)
		if got := find(r.Problems, "ConfigSetAside"); len(got) != 1 || len(r.Problems) != 1 || len(got[0].Message) > 1000 {
			t.Fatalf("problems %+v; want one line", r.Problems)
		}
		var left []string
		for _, e := range value(os.ReadDir(dir)) {
			left = append(left, e.Name())
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(keep)), left); diff != "" {
			t.Fatalf("files (-want +got):\n%s", diff)
		}
	}
	// The new copy stays, even where the clock was set back.
	n.now = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	n.put("garbage of today")
	n.settle(standard)
	if got := n.asides(); len(got) != maxAsides || !slices.Contains(got, "garbage of today") {
		t.Errorf("copies %q; want ten with today's", got)
	}
}

func TestManyFaults(t *testing.T) {
	var list []string
	for i := range 3000 {
		list = append(list, fmt.Sprintf(`{"resourceName":"no.%d.%s","selectors":{}}`, i, strings.Repeat("x", 300)),
			fmt.Sprintf(`{"resourceName":"%s%d","selectors":{"drivers":["none"]}}`, strings.Repeat("l", 300), i))
	}
	n := newNode(t)
	n.put(`{"resourceList":[` + strings.Join(list, ",") + `]}`)
	for range 2 {
		r := n.apply(standard)
		size := 0
		for _, p := range r.Problems {
			size += len(p.Message)
		}
		if len(r.Problems) > maxProblems || size > 50_000 || len(find(r.Problems, "ConfigSetAside")) != 1 {
			t.Errorf("%d problems of %d octets", len(r.Problems), size)
		}
	}
}

// Garbage that is written more often than every SettleTime is left alone, with a Problem, until it rests or is valid.
func TestNeverSettles(t *testing.T) {
	for name, last := range map[string]string{"rests": "garbage", "can be read": `{"resourceList":[` + foreign + `]}`} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.put(`{"resourceList":[` + foreign + `]}`)
			n.apply(standard)
			begun := n.now
			for i := range 100 {
				text := fmt.Sprintf("{garbage %d", i)
				n.put(text)
				r := n.apply(standard)
				want := 0
				if n.now.Sub(begun) >= restlessAfter {
					want = 1
				}
				if len(r.Problems) != want || want == 1 && r.Problems[0].Reason != "ConfigUnsettled" || r.RetryAfter == 0 {
					t.Fatalf("after %v: %+v; want %d problem", n.now.Sub(begun), r, want)
				}
				if n.content() != text {
					t.Fatalf("after %v: %q", n.now.Sub(begun), n.content())
				}
				n.now = n.now.Add(SettleTime - time.Millisecond)
			}
			n.put(last)
			r := n.apply(standard)
			if last == "garbage" {
				n.now = n.now.Add(SettleTime)
				r = n.apply(standard)
			}
			if !r.Changed || len(find(r.Problems, "ConfigUnsettled")) > 0 {
				t.Errorf("in the end: %+v", r)
			}
			if n.put("{"); n.apply(standard).Problems != nil {
				t.Error("another edit is a Problem at once")
			}
		})
	}
}

func TestAlwaysEdited(t *testing.T) {
	n := newNode(t)
	var last Result
	for i := range 100 {
		n.put(fmt.Sprintf(`{"resourceList":[],"edit":%d}`, i))
		r, err := n.file.Apply(Request{Entries: standard, Node: here, SaveOwned: func([]device.ResourceName) error {
			n.put(fmt.Sprintf(`{"resourceList":[],"edit":%d.5}`, i))
			return nil
		}})
		must(t, err)
		last = r
		n.now = n.now.Add(retryEdited)
	}
	if len(last.Problems) != 1 || last.Problems[0].Reason != "ConfigUnsettled" {
		t.Errorf("after 20 s: %+v; want a Problem", last)
	}
}

// A rebuilt file whose last good content breaks a rule of today loses nothing.
func TestRebuildKeepsLastGood(t *testing.T) {
	n := newNode(t)
	n.last.LastGood = []byte(`{"resourceList":[` + foreign + `,{"resourcePrefix":"a.example","resourceName":"theirs","selectors":{"drivers":["x"]}}]}`)
	n.put("garbage")
	n.last.Node = here
	n.last.Prefixes = []string{"a.example"}
	n.last.Entries = standard
	value(n.file.Apply(n.last))
	n.now = n.now.Add(SettleTime)
	r := value(n.file.Apply(n.last))
	if len(n.asides()) != 2 || len(find(r.Problems, "DuplicateEntry")) != 1 {
		t.Errorf("copies %q, problems %+v; want both contents and the duplicate", n.asides(), r.Problems)
	}
}

func value[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
