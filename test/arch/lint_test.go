//go:build lint

package arch

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// strangers are modules that .golangci.yml forbids and go.mod lacks; the fixtures import empty ones of the same names.
var strangers = []string{
	"github.com/golang/mock", "github.com/onsi/gomega", "github.com/pkg/errors", "github.com/stretchr/testify", "go.uber.org/mock",
}

// TestLintFixtures runs the linter, with the repository's own configuration, on testdata/lint, a module of the
// same name. Its report must match the `// want "text"` comments there exactly, and show each message of our own
// in the configuration at least once.
//
// GOLANGCI_LINT is the program; `make lint` builds and names it.
func TestLintFixtures(t *testing.T) {
	dir := lintModule(t)
	wants := wanted(t, dir)
	reports := lint(t, dir)

	for place, texts := range wants {
		for _, text := range texts {
			if !slices.ContainsFunc(reports[place], func(r string) bool { return strings.Contains(r, text) }) {
				t.Errorf("%s: no report %q; there is %q", place, text, reports[place])
			}
		}
	}
	for place, found := range reports {
		for _, r := range found {
			if !slices.ContainsFunc(wants[place], func(text string) bool { return strings.Contains(r, text) }) {
				t.Errorf("%s: unwanted report %q", place, r)
			}
		}
	}
	for _, message := range messages(t, dir) {
		if !slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(reports))...), func(r string) bool { return strings.Contains(r, message) }) {
			t.Errorf("no fixture trips the rule %q of .golangci.yml", message)
		}
	}
}

func lintModule(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/lint")); err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".golangci.yml", "go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strangers {
			if name == "go.mod" {
				b = fmt.Appendf(b, "\nrequire %s v1.999.0\n\nreplace %[1]s => ./.strangers/%[1]s\n", s)
			}
		}
		write(name, b)
	}
	for _, s := range strangers {
		write(path.Join(".strangers", s, "go.mod"), []byte("module "+s+"\n"))
		write(path.Join(".strangers", s, "x.go"), []byte("package "+path.Base(s)+"\n"))
	}
	return dir
}

// wanted reads the comments: "file:line" -> texts.
func wanted(t *testing.T, dir string) map[string][]string {
	t.Helper()
	comment := regexp.MustCompile(`// want (".*)$`)
	wants := map[string][]string{}
	fsys := os.DirFS(dir)
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".go" {
			return err
		}
		b, err := fs.ReadFile(fsys, name)
		for n, line := range strings.Split(string(b), "\n") {
			if m := comment.FindStringSubmatch(line); m != nil {
				text, err := strconv.Unquote(m[1])
				if err != nil {
					return fmt.Errorf("%s:%d: %w", name, n+1, err)
				}
				place := fmt.Sprintf("%s:%d", name, n+1)
				wants[place] = append(wants[place], text)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return wants
}

// lint runs the linter: "file:line" -> messages.
func lint(t *testing.T, dir string) map[string][]string {
	t.Helper()
	program := os.Getenv("GOLANGCI_LINT")
	if program == "" {
		t.Fatal("GOLANGCI_LINT is not set: run make lint")
	}
	cmd := exec.CommandContext(t.Context(), program, "run", "--output.json.path=stdout", "--output.text.path=stderr", "--show-stats=false", "./...")
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var report struct {
		Issues []struct {
			FromLinter, Text string
			Pos              struct {
				Filename string
				Line     int
			}
		}
	}
	if jsonErr := json.Unmarshal(out, &report); jsonErr != nil {
		t.Fatalf("%v: %v; output: %v\n%s%s", cmd, err, jsonErr, out, stderr.String())
	}
	reports := map[string][]string{}
	for _, i := range report.Issues {
		place := fmt.Sprintf("%s:%d", filepath.ToSlash(i.Pos.Filename), i.Pos.Line)
		reports[place] = append(reports[place], i.FromLinter+": "+i.Text)
	}
	return reports
}

func messages(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, ".golangci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^\s+(?:msg|desc): (.+)$`).FindAllStringSubmatch(string(b), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatal("no msg or desc in .golangci.yml")
	}
	return out
}
