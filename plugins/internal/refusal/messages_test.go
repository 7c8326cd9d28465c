package refusal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// wayOut finds the remedy in a message: it follows a semicolon, or "want".
var wayOut = regexp.MustCompile(`; |want `)

// passedOn lists formats whose arguments give the remedy.
var passedOn = map[string]bool{
	"%s": true, "%v": true, "dns: %v": true, "ipam.type %s: device %s: %v": true, "ipam.type %s: ENI %s: %v": true, "%s is draining: %s": true,
	"device %s is shared with %s: %s": true,
}

// TestEveryRefusalHasAWayOut: every refusal of multi-eni and eni-ipam gives the remedy.
func TestEveryRefusalHasAWayOut(t *testing.T) {
	found := 0
	files, err := filepath.Glob("../*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !refuses(call) {
				return true
			}
			if format := textOf(call.Args[1]); format != "" {
				found++
				if !wayOut.MatchString(format) && !passedOn[format] && !strings.HasSuffix(format, ": %w") { // the cause gives it
					t.Errorf("%s: no way out in %q", fset.Position(call.Pos()), format)
				}
			}
			return true
		})
	}
	if found < 90 {
		t.Errorf("only %d refusals found", found)
	}
}

// refuses reports whether a call is refusal.New(code, format, …) or d.fault(key, format, …).
func refuses(call *ast.CallExpr) bool {
	if len(call.Args) < 2 {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	in, ok := f.X.(*ast.Ident)
	return ok && (f.Sel.Name == "fault" || in.Name == "refusal" && f.Sel.Name == "New")
}

// textOf returns the value of a string literal or of a sum of them; "" for any other expression.
func textOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil {
			return text
		}
	case *ast.BinaryExpr:
		return textOf(e.X) + textOf(e.Y)
	}
	return ""
}
