package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/multi-eni/multi-eni-cni"
const maxText = 1 << 20

// tree is the input of the rules: the repository's text files, and the imports of every other package that it reaches.
type tree struct {
	files    []file              // sorted by path
	external map[string][]string // import path -> its imports, standard library included
}

type file struct {
	path string
	text string
	fset *token.FileSet
	ast  *ast.File // nil unless it is Go source of the module (not testdata)
}

func (f file) dir() string { return path.Dir(f.path) }

func (f file) isTest() bool {
	return strings.HasSuffix(f.path, "_test.go") || f.path == "test" || strings.HasPrefix(f.path, "test/")
}

func (f file) lines() int { return strings.Count(f.text, "\n") }

func (f file) imports() []string {
	var paths []string
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

func (tr tree) goFiles(keep func(file) bool) []file {
	var out []file
	for _, f := range tr.files {
		if f.ast != nil && keep(f) {
			out = append(out, f)
		}
	}
	return out
}

func product(f file) bool { return !f.isTest() && !ast.IsGenerated(f.ast) }

// graph returns the imports of every package: the module's own from its non-test files, the rest from external.
func (tr tree) graph() map[string][]string {
	g := make(map[string][]string, len(tr.external))
	for p, imports := range tr.external {
		g[p] = imports
	}
	for _, f := range tr.goFiles(func(f file) bool { return !strings.HasSuffix(f.path, "_test.go") }) {
		p := path.Join(module, f.dir())
		for _, i := range f.imports() {
			if !slices.Contains(g[p], i) {
				g[p] = append(g[p], i)
			}
		}
	}
	return g
}

func newFile(name, text string) (file, error) {
	f := file{path: name, text: text}
	if path.Ext(name) != ".go" || slices.Contains(strings.Split(name, "/"), "testdata") {
		return f, nil
	}
	f.fset = token.NewFileSet()
	parsed, err := parser.ParseFile(f.fset, name, text, parser.ParseComments)
	f.ast = parsed
	return f, err
}

func load(t *testing.T) tree {
	t.Helper()
	root := root(t)
	tr := tree{external: external(t, root)}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // an editor's or another test's temporary file
			return nil
		case err != nil:
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if rel == ".git" && !d.IsDir() { // of a linked worktree
			return nil
		}
		if d.IsDir() {
			if rel == ".git" || rel == "bin" || rel == ".cache" {
				return filepath.SkipDir
			}
			return nil
		}
		if rel == ".git" { // a worktree has a file of that name
			return nil
		}
		text, ok := readText(name, d)
		if !ok {
			return nil
		}
		f, err := newFile(filepath.ToSlash(rel), text)
		tr.files = append(tr.files, f)
		return err
	})
	if err != nil {
		t.Fatalf("read the repository: %v", err)
	}
	if len(tr.goFiles(product)) == 0 || len(tr.external["net/netip"]) == 0 {
		t.Fatal("read the repository: no Go files or no import graph, so no rule could fail")
	}
	return tr
}

func readText(name string, d fs.DirEntry) (string, bool) {
	info, err := d.Info()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxText {
		return "", false
	}
	b, err := os.ReadFile(name)
	if err != nil || slices.Contains(b, 0) {
		return "", false
	}
	return string(b), true
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// external asks the go command for the imports of every package that the module reaches, compilable or not.
func external(t *testing.T, root string) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	imports := make(map[string][]string)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return imports
		} else if err != nil {
			t.Fatalf("decode the output of %v: %v", cmd, err)
		}
		if !strings.HasPrefix(p.ImportPath, module) {
			imports[p.ImportPath] = p.Imports
		}
	}
}

// fixture makes a tree: each file begins with "-- path --"; "@path" is a foreign package, and its lines are imports.
func fixture(t *testing.T, text string) tree {
	t.Helper()
	tr := tree{external: map[string][]string{}}
	for _, part := range strings.Split("\n"+text, "\n-- ")[1:] {
		name, body, ok := strings.Cut(part, " --\n")
		if !ok {
			t.Fatalf("fixture: no end of the name in %q", part)
		}
		if ext, isExternal := strings.CutPrefix(name, "@"); isExternal {
			tr.external[ext] = strings.Fields(body)
			continue
		}
		f, err := newFile(name, body+"\n")
		if err != nil {
			t.Fatalf("fixture: %v", err)
		}
		tr.files = append(tr.files, f)
	}
	return tr
}

func (f file) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(pos).Line)
}
