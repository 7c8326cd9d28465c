package pcidp

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

func TestApplySymlink(t *testing.T) {
	for name, tt := range map[string]struct{ target, want string }{
		"ConfigMap":  {"..data/config.json", "ConfigMap"},
		"plain link": {"/somewhere/else.json", "symbolic link to /somewhere/else.json"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			dir := filepath.Dir(n.file.Path)
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, "..2026"), 0o755),
				os.WriteFile(filepath.Join(dir, "..2026/config.json"), []byte(`{"resourceList":[]}`), 0o644),
				os.Symlink("..2026", filepath.Join(dir, "..data")),
				os.Symlink(tt.target, n.file.Path)); err != nil {
				t.Fatal(err)
			}
			n.last.Owned = standardOwned
			r, err := n.file.Apply(Request{Entries: standard, Owned: standardOwned})
			if err != nil || r.Changed || r.Content != nil || !slices.Equal(r.Owned, standardOwned) {
				t.Fatalf("Apply: %+v, %v; want nothing done", r, err)
			}
			if len(r.Problems) != 1 || r.Problems[0].Reason != "ConfigIsSymlink" || !strings.Contains(r.Problems[0].Message, tt.want) {
				t.Errorf("problems %+v; want one with %q", r.Problems, tt.want)
			}
			if target, err := os.Readlink(n.file.Path); err != nil || target != tt.target {
				t.Errorf("link to %q, %v; want it untouched", target, err)
			}
		})
	}
}

func TestApplyUnreadable(t *testing.T) {
	tests := map[string]struct {
		make func(path string) error
		want string
	}{
		"folder":    {func(p string) error { return os.Mkdir(p, 0o755) }, "want a plain file"},
		"FIFO":      {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "want a plain file"},
		"too large": {func(p string) error { return os.WriteFile(p, make([]byte, maxConfigSize+1), 0o600) }, "larger than"},
		"parent is a file": {func(p string) error {
			return errors.Join(os.Remove(filepath.Dir(p)), os.WriteFile(filepath.Dir(p), nil, 0o600))
		}, "not a directory"},
		"name too long": {nil, "file name too long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			must(t, os.Mkdir(filepath.Dir(n.file.Path), 0o755))
			if tt.make == nil {
				n.file.Path += strings.Repeat("x", 256)
			} else if err := tt.make(n.file.Path); err != nil {
				t.Fatal(err)
			}
			r, err := n.file.Apply(Request{Entries: standard})
			if err == nil || !strings.Contains(err.Error(), tt.want) || r.Changed {
				t.Errorf("Apply: %+v, %v; want an error with %q", r, err, tt.want)
			}
		})
	}
}

// A folder in the way of the temporary file makes the write fail, even for root.
func TestApplyUnwritable(t *testing.T) {
	n := newNode(t)
	n.put(`{}`)
	blocked := filepath.Join(filepath.Dir(n.file.Path), ".config.json.tmp")
	must(t, os.MkdirAll(filepath.Join(blocked, "x"), 0o755))
	if r, err := n.file.Apply(Request{Entries: standard}); err == nil || r.Changed || n.content() != `{}` {
		t.Errorf("Apply: %+v, %v; want an error and the file untouched", r, err)
	}
}

func TestApplyAfterKill(t *testing.T) {
	n := newNode(t)
	n.put(`{"resourceList":[` + foreign + `]}`)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(n.file.Path), ".config.json.tmp"), []byte("half a fi"), 0o600))
	n.last.Owned = standardOwned // saved, then killed
	if r := n.apply(standard); !r.Changed {
		t.Errorf("result %+v; want the file written", r)
	}
}

// SaveOwned runs between read and replacement, when others may write the file.
func TestApplyEditedMeanwhile(t *testing.T) {
	const theirs = `{"resourceList":[` + foreign + `],"edited":true}`
	tests := map[string]struct {
		before string
		edit   func(path string) error
	}{
		"edited":            {`{"resourceList":[` + foreign + `]}`, func(p string) error { return os.WriteFile(p, []byte(theirs), 0o600) }},
		"created":           {"", func(p string) error { return os.WriteFile(p, []byte(theirs), 0o600) }},
		"created empty":     {"", func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		"deleted":           {`{"resourceList":[` + foreign + `]}`, os.Remove},
		"became a link":     {`{}`, func(p string) error { return errors.Join(os.Remove(p), os.Symlink("x", p)) }},
		"with a copy aside": {`{"resourceList":[` + foreign + `,` + foreign + `]}`, func(p string) error { return os.WriteFile(p, []byte(theirs), 0o600) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.put(tt.before)
			if tt.before == "" {
				must(t, os.Remove(n.file.Path))
			}
			r, err := n.file.Apply(Request{Entries: standard, Node: here, SaveOwned: func([]device.ResourceName) error { return tt.edit(n.file.Path) }})
			if err != nil || r.RetryAfter != retryEdited || r.Changed || r.Owned != nil {
				t.Fatalf("Apply: %+v, %v; want a retry", r, err)
			}
			if n.asides() != nil {
				t.Errorf("copies %q; want none", n.asides())
			}
			if stray, _ := filepath.Glob(filepath.Join(filepath.Dir(n.file.Path), ".*")); stray != nil {
				t.Errorf("left behind: %s", stray)
			}
			if strings.Contains(name, "edited") {
				n.apply(standard)
				if got := entries(t, []byte(n.content())); got[2] != foreign || !strings.Contains(n.content(), `"edited": true`) {
					t.Errorf("content %s; want the edit kept", n.content())
				}
			}
		})
	}
}

func TestApplySavesOwned(t *testing.T) {
	n := newNode(t)
	var saved [][]device.ResourceName
	n.last.SaveOwned = func(names []device.ResourceName) error {
		saved = append(saved, names)
		return nil
	}
	n.apply(standard[1:])
	n.apply(standard[1:]) // changes nothing
	n.apply(standard[:1])
	n.apply(nil)
	want := [][]device.ResourceName{{"intel.com/sriov_net"}, {"example.com/vf", "intel.com/sriov_net"}, {"example.com/vf"}}
	same(t, "saved", want, saved)
}

func TestApplySaveFails(t *testing.T) {
	n := newNode(t)
	n.put(`{}`)
	full := errors.New("disk full")
	r, err := n.file.Apply(Request{Entries: standard, SaveOwned: func([]device.ResourceName) error { return full }})
	if !errors.Is(err, full) || r.Changed || n.content() != `{}` {
		t.Errorf("Apply: %+v, %v; want the callback's error and the file untouched", r, err)
	}
}

func TestApplyDoesNotOwnTheirs(t *testing.T) {
	n := newNode(t)
	clash := `{"resourceName":"sriov_net","selectors":{"vendors":["15b3"]}}`
	n.put(`{"resourceList":[` + clash + `]}`)
	n.last.SaveOwned = func(names []device.ResourceName) error {
		if slices.Contains(names, "intel.com/sriov_net") {
			t.Errorf("saved %s", names)
		}
		return nil
	}
	for range 2 {
		r := n.apply(standard)
		if got := entries(t, []byte(n.content())); len(got) != 2 || got[1] != clash || slices.Contains(r.Owned, "intel.com/sriov_net") {
			t.Fatalf("entries %s, owned %s; want theirs kept", got, r.Owned)
		}
	}
	n.last.SaveOwned = nil
	n.put(`{"resourceList":[]}`)
	if r := n.apply(standard[1:]); !slices.Equal(r.Owned, standardOwned[1:]) || r.Problems != nil {
		t.Errorf("after they deleted it: %+v; want ours", r)
	}
}
