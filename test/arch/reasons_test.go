package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

const reasonsDir = "daemon/internal/reason"

func reasonRules() []rule {
	table := "-- " + reasonsDir + "/names.go --\n// Package reason is.\npackage reason\n\nconst NotAttached nodestate.Reason = \"NotAttached\"\n"
	in := func(code string) string { return table + "-- daemon/x.go --\npackage x\n\n" + code + "\n" }
	return []rule{{
		name:  "bare-reason",
		why:   "a Reason that is spelt where it is used is missing from docs/troubleshooting.md, and drifts from the others; name a constant of " + reasonsDir,
		check: bareReasons,
		bad: []string{
			in(`var s = "NotAttached"`),
			in(`var p = nodestate.Problem{Reason: "Broken"}`),
			in(`func f(p *nodestate.Problem) { p.Reason = "Broken" }`),
			in("func note(why nodestate.Reason, text string) {}\nfunc f() { note(\"Broken\", \"\") }"),
			in("func (j *joiner) note(text string, why nodestate.Reason) {}\nfunc f() { j.note(\"\", \"Broken\") }"),
			in(`var x = nodestate.Reason("Broken")`),
			in(`const broken nodestate.Reason = "Broken"`),
			"-- " + reasonsDir + "/names.go --\n// Package reason is.\npackage reason\n\nconst Attached nodestate.Reason = \"NotAttached\"\n",
		},
		good: []string{
			in("func note(why nodestate.Reason, text string) {}\nfunc f() { note(reason.NotAttached, \"Broken\"); note(\"\", \"x\") }"),
			in(`var p = nodestate.Problem{Reason: reason.NotAttached, Message: "m"}`),
			table + "-- daemon/x_test.go --\npackage x\n\nvar s = \"NotAttached\"\n",
		},
	}}
}

func textOf(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		value, _ := strconv.Unquote(l.Value) // the parser has accepted it
		return value
	}
	return ""
}

func isReason(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Reason"
}

func bareReasons(tr tree) (out []string) {
	known := map[string]bool{}
	takes := map[string][]int{} // "folder name" of a function: its parameters that are Reasons
	files := tr.goFiles(func(f file) bool {
		return strings.HasPrefix(f.path, "daemon/") && !strings.HasSuffix(f.path, "_test.go")
	})
	for _, f := range files {
		for _, d := range f.ast.Decls {
			if f.dir() == reasonsDir {
				out = append(out, reasonNames(f, d, known)...)
			}
			if fn, ok := d.(*ast.FuncDecl); ok {
				at := 0
				for _, p := range fn.Type.Params.List {
					for range max(1, len(p.Names)) {
						if isReason(p.Type) {
							takes[f.dir()+" "+fn.Name.Name] = append(takes[f.dir()+" "+fn.Name.Name], at)
						}
						at++
					}
				}
			}
		}
	}
	for _, f := range files {
		if f.dir() == reasonsDir || f.dir() == "daemon/internal/hostnet" { // which has networkd's words
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			for _, e := range bareIn(n, f.dir(), takes, known) {
				if textOf(e) != "" {
					out = append(out, fmt.Sprintf("%s: %q", f.at(e.Pos()), textOf(e)))
				}
			}
			return true
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// reasonNames notes the Reasons that a declaration has, each of which is the name of its constant.
func reasonNames(f file, d ast.Decl, known map[string]bool) (out []string) {
	g, ok := d.(*ast.GenDecl)
	if !ok || g.Tok != token.CONST {
		return nil
	}
	for _, spec := range g.Specs {
		v, ok := spec.(*ast.ValueSpec)
		if !ok || !isReason(v.Type) || len(v.Values) != 1 || textOf(v.Values[0]) == "" {
			continue
		}
		name := textOf(v.Values[0])
		known[name] = true
		if v.Names[0].Name != name {
			out = append(out, fmt.Sprintf("%s: constant %s is %q", f.at(v.Pos()), v.Names[0].Name, name))
		}
	}
	return out
}

// bareIn returns the expressions of a node that stand for a Reason and may be literals.
func bareIn(n ast.Node, dir string, takes map[string][]int, known map[string]bool) (out []ast.Expr) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if known[textOf(n)] {
			out = append(out, n)
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Reason" {
			out = append(out, n.Value)
		}
	case *ast.AssignStmt:
		for i, to := range n.Lhs {
			if isReason(to) && len(n.Rhs) == len(n.Lhs) {
				out = append(out, n.Rhs[i])
			}
		}
	case *ast.ValueSpec:
		if isReason(n.Type) {
			out = append(out, n.Values...)
		}
	case *ast.CallExpr:
		name := ""
		switch f := n.Fun.(type) {
		case *ast.Ident:
			name = f.Name
		case *ast.SelectorExpr:
			name = f.Sel.Name
			if isReason(f) {
				out = append(out, n.Args...)
			}
		}
		for _, at := range takes[dir+" "+name] {
			if at < len(n.Args) {
				out = append(out, n.Args[at])
			}
		}
	}
	return out
}
