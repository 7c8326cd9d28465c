package reason

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func parse(t *testing.T, paths ...string) (files []*ast.File) {
	t.Helper()
	for _, p := range paths {
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func daemonSources(t *testing.T) []*ast.File { return parse(t, daemonFiles(t)...) }

// constants are the Reasons that this package declares.
func constants(t *testing.T) map[nodestate.Reason]bool {
	all := map[nodestate.Reason]bool{}
	for _, f := range parse(t, "names.go", "reason.go") {
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && v.Type != nil {
				if s, ok := v.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "Reason" {
					all[nodestate.Reason(v.Names[0].Name)] = true
				}
			}
			return true
		})
	}
	return all
}

// named returns the Reason that an expression names: reason.X, or v1alpha1.ReasonX.
func named(e ast.Expr) (nodestate.Reason, bool) {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	name := s.Sel.Name
	switch {
	case x.Name == "reason" && ast.IsExported(name) && name != "Delay":
		return nodestate.Reason(name), true
	case x.Name == "v1alpha1" && len(name) > 6 && name[:6] == "Reason":
		return nodestate.Reason(name[6:]), true
	}
	return "", false
}

// uses are the Reasons that the daemon names.
func uses(t *testing.T) map[nodestate.Reason]bool {
	all := map[nodestate.Reason]bool{}
	for _, f := range daemonSources(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if r, ok := named(e); ok {
					all[r] = true
				}
			}
			return true
		})
	}
	return all
}

// readTexts returns all texts of the daemon and of the packages whose errors it shows, one on each line.
func readTexts(t *testing.T) string {
	t.Helper()
	paths := daemonFiles(t)
	for _, pattern := range []string{"../../../pkg/nodestate/*.go", "../../../pkg/apis/networking/v1alpha1/*.go"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, more...)
	}
	var b strings.Builder
	for _, f := range parse(t, paths...) {
		ast.Inspect(f, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				b.WriteString(textOf(e) + "\n")
			}
			return true
		})
	}
	return b.String()
}

type message struct {
	reason nodestate.Reason
	text   string
}

// messagesIn finds the texts that stand beside a Reason: in the same call, literal or assignment.
func messagesIn(f *ast.File) (out []message) {
	ast.Inspect(f, func(n ast.Node) bool {
		var beside []ast.Expr
		switch n := n.(type) {
		case *ast.CallExpr:
			beside = n.Args
		case *ast.AssignStmt:
			beside = n.Rhs
		case *ast.CompositeLit:
			for _, e := range n.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					e = kv.Value
				}
				beside = append(beside, e)
			}
		}
		var r nodestate.Reason
		for _, e := range beside {
			if is, ok := named(e); ok {
				r = is
				continue
			}
			// The first text behind it that is more than a word or a value.
			if text := textOf(e); r != "" && regexp.MustCompile(`\pL+ \pL+`).MatchString(text) {
				out = append(out, message{r, text})
				break
			}
		}
		return true
	})
	return out
}

// verb matches the parts of a format that fmt replaces.
var verb = regexp.MustCompile(`%(\[\d+\])?[-+#0]*[0-9.]*[a-zA-Z]`)

// textOf returns the text that an expression makes, with … for each value.
func textOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, _ := strconv.Unquote(e.Value) // the parser has accepted it
			return verb.ReplaceAllStringFunc(text, func(v string) string {
				if v[len(v)-1] == 'q' {
					return `"` + value + `"`
				}
				return value
			})
		}
	case *ast.BinaryExpr:
		return textOf(e.X) + textOf(e.Y)
	case *ast.ParenExpr:
		return textOf(e.X)
	case *ast.CallExpr:
		if s, ok := e.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Sprintf" && len(e.Args) > 0 {
			return textOf(e.Args[0])
		}
	}
	return value
}
