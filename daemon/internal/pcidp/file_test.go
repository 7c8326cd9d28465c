package pcidp

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type node struct {
	*testing.T
	file File
	now  time.Time
	last Request // the state that the daemon remembers between two calls
}

func newNode(t *testing.T) *node {
	n := &node{T: t, now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	n.file = File{Path: filepath.Join(t.TempDir(), "pcidp", "config.json"), Now: func() time.Time { return n.now }, Written: judged(t, &n.last)}
	return n
}

func (n *node) put(content string) {
	n.Helper()
	must(n, os.MkdirAll(filepath.Dir(n.file.Path), 0o755))
	must(n, os.WriteFile(n.file.Path, []byte(content), 0o600))
}

func (n *node) content() string {
	n.Helper()
	data, err := os.ReadFile(n.file.Path)
	must(n, err)
	return string(data)
}

func (n *node) apply(entries []Entry) Result {
	n.Helper()
	before, _ := os.ReadFile(n.file.Path)
	n.last.Entries, n.last.Node = entries, here
	r, err := n.file.Apply(n.last)
	must(n, err)
	n.last.Owned = r.Owned
	if r.Content != nil {
		n.last.LastGood = r.Content
		judge(n.T, []byte(n.content()), entries, r.Owned)
		if r.Hash != hash(r.Content) || !sameValue([]byte(n.content()), r.Content) {
			n.Fatalf("result is not what the file means:\n%s\nfile:\n%s", r.Content, n.content())
		}
	}
	after, _ := os.ReadFile(n.file.Path)
	if changed := string(before) != string(after); changed != r.Changed {
		n.Fatalf("Changed = %t; want %t", r.Changed, changed)
	}
	if r.RetryAfter > 0 && (r.Changed || r.Content != nil || r.Hash != "") {
		n.Fatalf("result %+v: a retry with a content", r)
	}
	if stray, _ := filepath.Glob(filepath.Join(filepath.Dir(n.file.Path), ".*")); stray != nil {
		n.Fatalf("left behind: %s", stray)
	}
	return r
}

// settle applies twice, SettleTime apart; the first must change nothing.
func (n *node) settle(entries []Entry) Result {
	n.Helper()
	if r := n.apply(entries); r.RetryAfter != SettleTime {
		n.Fatalf("RetryAfter = %v; want %v", r.RetryAfter, SettleTime)
	}
	n.now = n.now.Add(SettleTime)
	return n.apply(entries)
}

func (n *node) asides() []string {
	n.Helper()
	paths, err := n.file.asides()
	must(n, err)
	var contents []string
	for _, p := range paths {
		data, err := os.ReadFile(p.path)
		must(n, err)
		contents = append(contents, string(data))
	}
	return contents
}

func reasons(r Result) []string {
	var list []string
	for _, p := range r.Problems {
		list = append(list, string(p.Reason))
	}
	return list
}

const foreign = `{"resourceName":"theirs","selectors":{"vendors":["15b3"]}}`

func TestApplyCreates(t *testing.T) {
	n := newNode(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	r := n.apply(standard)
	if diff := cmp.Diff(standardOwned, r.Owned); diff != "" || !r.Changed {
		t.Errorf("result %+v; owned (-want +got):\n%s", r, diff)
	}
	if info, err := os.Stat(n.file.Path); err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v; want 0644", info.Mode(), err)
	}
	if again := n.apply(standard); again.Changed || again.Hash != r.Hash {
		t.Errorf("second call: %+v; want no change", again)
	}
	gone := n.apply(nil)
	if !gone.Changed || gone.Owned != nil || !strings.Contains(n.content(), "sriov_placeholder") {
		t.Errorf("without devices: %+v, %s; want the placeholder", gone, n.content())
	}
}

// eni-manager writes the file in place, and keeps our entries that it can parse.
func TestENIManager(t *testing.T) {
	theirs, err := os.ReadFile("testdata/field/eni-manager.json")
	must(t, err)
	ended := func(n *node) {
		n.Helper()
		if r := n.apply(standard); r.Changed || len(r.Problems) > 0 || !slices.Equal(r.Owned, standardOwned) {
			n.Errorf("after it has ended: changed %t, owned %v, problems %v", r.Changed, r.Owned, r.Problems)
		}
		// A device whose NodeENI goes later leaves the config, whoever added it.
		if r := n.apply(standard[:1]); !r.Changed || strings.Contains(n.content(), "sriov_net\"") {
			n.Errorf("after the removal of sriov_net: changed %t,\n%s", r.Changed, n.content())
		}
	}
	t.Run("it ends first", func(t *testing.T) {
		n := newNode(t)
		n.put(string(theirs))
		if r := n.apply(standard); !r.Changed || len(r.Problems) > 0 {
			t.Errorf("changed %t, problems %v", r.Changed, r.Problems)
		}
		ended(n)
	})
	t.Run("we begin first", func(t *testing.T) {
		n := newNode(t)
		n.apply(standard)
		for range 3 { // it cannot read a selector that is no list, and writes the file anew
			n.put(string(theirs))
			if r := n.apply(standard); !r.Changed || len(r.Problems) > 0 {
				t.Errorf("changed %t, problems %v", r.Changed, r.Problems)
			}
		}
		ended(n)
	})
}

func TestApplyKeepsFormatting(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	hashBefore := n.apply(standard).Hash
	reformatted := strings.Join(strings.Fields(n.content()), " \n\t ")
	n.put(reformatted)
	if r := n.apply(standard); r.Changed || r.Hash != hashBefore || n.content() != reformatted {
		t.Errorf("result %+v; want people's formatting kept, and the same hash", r)
	}
	n.put(strings.Replace(reformatted, "15b3", "8086", 1))
	if r := n.apply(standard); r.Changed || r.Hash == hashBefore {
		t.Errorf("result %+v; want an edit of a foreign entry kept, and another hash", r)
	}
}

func TestApplyRemovesOnlyOurs(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	n.apply(standard)
	r := n.apply(standard[:1])
	if got := entries(t, []byte(n.content())); len(got) != 2 || got[1] != foreign || !slices.Equal(r.Owned, standardOwned[:1]) {
		t.Errorf("entries %s, owned %s; want one of ours and theirs", got, r.Owned)
	}
	n.apply(nil)
	if got := entries(t, []byte(n.content())); len(got) != 1 || got[0] != foreign {
		t.Errorf("entries %s; want theirs alone", got)
	}
}

// An editor truncates the file and writes it in pieces, slower than SettleTime in all.
func TestApplyInEdit(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	n.apply(standard)
	edited := strings.Replace(n.content(), "15b3", "1077", 1)
	for size := 0; size < len(edited)-2; size += 50 {
		n.put(edited[:size])
		r := n.apply(standard)
		if r.RetryAfter != SettleTime || n.content() != edited[:size] {
			t.Fatalf("after %d octets: %+v; want to wait", size, r)
		}
		if diff := cmp.Diff(standardOwned, r.Owned); diff != "" {
			t.Fatalf("owned (-want +got):\n%s", diff)
		}
		n.now = n.now.Add(SettleTime - time.Millisecond)
		if r := n.apply(standard); r.RetryAfter != time.Millisecond {
			t.Fatalf("after %d octets: %+v; want to wait one more millisecond", size, r)
		}
	}
	n.put(edited)
	if r := n.apply(standard); r.Changed || r.RetryAfter != 0 || r.Problems != nil || n.asides() != nil {
		t.Errorf("after the edit: %+v; want nothing to do", r)
	}
}

func TestApplyCorrupt(t *testing.T) {
	const garbage = `{"resourceList":[{"resourceName":"theirs" // a comment`
	tests := map[string]struct {
		lastGood string
		want     []string
	}{
		"rebuilt from the last good": {`{"resourceList":[` + string(encodeEntry(standard[0])) + `,` + foreign + `],"note":1}`, []string{foreign}},
		"no last good":               {"", nil},
		"last good is garbage":       {"{", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.put(garbage)
			n.last.LastGood, n.last.Owned = []byte(tt.lastGood), standardOwned[:1]
			r := n.settle(standard)
			if diff := cmp.Diff([]string{"ConfigCorrupt", "ConfigSetAside"}, reasons(r)); diff != "" || !r.Changed {
				t.Errorf("result %+v; problems (-want +got):\n%s", r, diff)
			}
			if got := entries(t, []byte(n.content())); !slices.Equal(got[2:], tt.want) {
				t.Errorf("foreign entries %s; want %s", got[2:], tt.want)
			}
			same(t, "copies", []string{garbage}, n.asides())
			if want := n.file.Path + ".corrupt-20260304T050609Z"; r.Problems[1].Device != want {
				t.Errorf("copy %s; want %s", r.Problems[1].Device, want)
			}
			same(t, "later problems", []string{"ConfigSetAside"}, reasons(n.apply(standard)))
			must(t, os.Remove(r.Problems[1].Device))
			if later := n.apply(standard); later.Problems != nil || later.Changed {
				t.Errorf("after the copy was deleted: %+v; want nothing to report", later)
			}
		})
	}
}

// Repeated garbage fills no disk; other garbage in the same second gets another name.
func TestApplyCorruptAgain(t *testing.T) {
	n := newNode(t)
	for range 3 {
		n.put("garbage")
		n.settle(standard)
	}
	same(t, "copies", []string{"garbage"}, n.asides())
	at := n.now
	for _, text := range []string{"more", "and more"} {
		n.put(text)
		n.now = at
		n.settle(standard)
	}
	same(t, "copies", []string{"and more", "garbage", "more"}, slices.Sorted(slices.Values(n.asides())))
}

func TestApplyEmptyFile(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "white space": " \n\n"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.put(`{"resourceList":[` + foreign + `]}`)
			n.apply(standard)
			n.put(content)
			r := n.settle(standard)
			if diff := cmp.Diff([]string{"ConfigCorrupt"}, reasons(r)); diff != "" || n.asides() != nil {
				t.Errorf("copies %q, problems (-want +got):\n%s", n.asides(), diff)
			}
			if got := entries(t, []byte(n.content())); got[2] != foreign {
				t.Errorf("entries %s; want theirs back", got)
			}
		})
	}
}

// Some editors move the old file away before they write the new one. If it stays away, it was deleted.
func TestApplyDeleted(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	n.apply(standard)
	saved := n.content()
	remove := func() {
		must(t, os.Remove(n.file.Path))
	}
	remove()
	if r := n.apply(standard); r.RetryAfter != SettleTime {
		t.Fatalf("result %+v; want to wait", r)
	}
	n.put(saved)
	if r := n.apply(standard); r.Changed || r.RetryAfter != 0 {
		t.Fatalf("after the file came back: %+v; want nothing to do", r)
	}
	n.now = n.now.Add(SettleTime)
	remove()
	r := n.settle(standard)
	if got := entries(t, []byte(n.content())); !r.Changed || len(got) != 2 || r.Problems != nil {
		t.Errorf("entries %s, result %+v; want ours alone", got, r)
	}
}

// A clock that jumps back must not keep a corrupt file for longer than a fresh SettleTime.
func TestApplyClockBack(t *testing.T) {
	n := newNode(t)
	n.put("garbage")
	n.apply(standard)
	n.now = n.now.Add(-time.Hour)
	if r := n.settle(standard); !r.Changed {
		t.Errorf("result %+v; want the file rebuilt", r)
	}
}

func TestApplySetsAside(t *testing.T) {
	n := newNode(t)
	original := `{"resourceList":[` + foreign + `,` + foreign + `]}`
	n.put(original)
	r := n.apply(standard)
	same(t, "problems", []string{"DuplicateEntry", "ConfigSetAside"}, reasons(r))
	same(t, "copies", []string{original}, n.asides())
}
