package controller

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReasonsAreExplained: docs/controller.md lists each reason and Event of the code, and no other.
func TestReasonsAreExplained(t *testing.T) {
	page, err := os.ReadFile("../../../docs/controller.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "\n## Reasons\n")
	part, _, _ := strings.Cut(rest, "\n## Flags\n")
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(part, -1) {
		for _, word := range strings.Split(row[1], ", ") {
			listed[strings.Trim(word, "`")] = true
		}
	}
	given := map[string]bool{}
	for _, f := range []string{"told/told.go", "adopt/adopt.go", "../slots/slots.go", "../lifecycle/next.go", "../lifecycle/failures.go"} {
		maps.Copy(given, reasonsOf(t, f))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(given)), slices.Sorted(maps.Keys(listed))); diff != "" {
		t.Errorf("docs/controller.md (-code +page):\n%s", diff)
	}
}

// reasonsOf reads the names of a file's constants that are words, or are made of package reason's.
func reasonsOf(t *testing.T, file string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	ast.Inspect(parse(t, file), func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Type != nil {
			return true
		}
		for _, e := range v.Values {
			switch e := e.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(e.Value); err == nil && word.MatchString(s) {
					out[s] = true
				}
			case *ast.CallExpr:
				if s, ok := e.Args[0].(*ast.SelectorExpr); ok {
					out[s.Sel.Name] = true
				}
			}
		}
		return true
	})
	if len(out) == 0 {
		t.Errorf("%s has no reason", file)
	}
	return out
}

var word = regexp.MustCompile(`^[A-Z][A-Za-z]{3,}$`)

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestReasonsAreConstants: no Event of the code has a reason that the test above does not see.
func TestReasonsAreConstants(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		ast.Inspect(parse(t, file), func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := c.Fun.(*ast.SelectorExpr)
			at := map[string]int{"tell": 4, "tellSlot": 2}
			if !ok || at[f.Sel.Name] == 0 || len(c.Args) <= at[f.Sel.Name] {
				return true
			}
			told++
			if lit, ok := c.Args[at[f.Sel.Name]].(*ast.BasicLit); ok {
				t.Errorf("%s: reason %s is no constant", file, lit.Value)
			}
			return true
		})
	}
	if told < 8 {
		t.Errorf("%d Events found", told)
	}
}
