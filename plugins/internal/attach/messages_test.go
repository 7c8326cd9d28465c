package attach

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// wayOut is how a message says what to do: behind a semicolon, or by naming what is wanted.
var wayOut = regexp.MustCompile(`; |want `)

// passedOn are formats whose way out is in the error that they pass on.
var passedOn = map[string]bool{
	"%s": true, "%v": true, "dns: %v": true, "ipam.type %s: device %s: %v": true, "ipam.type %s: ENI %s: %v": true, "%s is draining: %s": true,
	"device %s is shared with %s: %s": true,
}

// TestEveryRefusalHasAWayOut: whatever multi-eni and eni-ipam refuse, the message says
// what to do about it.
func TestEveryRefusalHasAWayOut(t *testing.T) {
	found := 0
	for _, folder := range []string{".", "../netconf", "../lease"} {
		files, err := filepath.Glob(folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			file, err := goparser.ParseFile(fset, name, nil, 0)
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
					if !wayOut.MatchString(format) && !passedOn[format] {
						t.Errorf("%s: no way out in %q", fset.Position(call.Pos()), format)
					}
				}
				return true
			})
		}
	}
	if found < 90 {
		t.Errorf("only %d refusals found", found)
	}
}

// refuses says whether a call is refuse(code, format, …) or d.fault(key, format, …).
func refuses(call *ast.CallExpr) bool {
	if len(call.Args) < 2 {
		return false
	}
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name == "refuse"
	case *ast.SelectorExpr:
		return f.Sel.Name == "fault"
	}
	return false
}

// textOf is a string that is written out, in one or more parts; "" for any other expression.
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
