package arch

import (
	"fmt"
	"go/ast"
	"maps"
	"slices"
	"strings"
)

const (
	maxFunc       = 80  // lines, signature and closing brace included
	maxFuncP90    = 40  // lines, over all functions of the product
	maxFile       = 400 // lines
	maxPluginMain = 40  // lines
)

func sourceRules() []rule {
	return []rule{
		{
			name:  "package-name",
			why:   "a package is named after what it provides; these names say nothing and collect everything",
			check: packageNames,
			bad:   []string{"-- pkg/utils/x.go --\npackage utils\n", "-- daemon/internal/x/x.go --\npackage manager\n"},
			good:  []string{"-- pkg/device/x.go --\npackage device\n"},
		},
		{
			name:  "package-doc",
			why:   "every package has one doc comment, in one place, that says what it is for",
			check: packageDocs,
			bad: []string{
				"-- pkg/x/x.go --\npackage x\n",
				"-- pkg/x/a.go --\n// Package x is.\npackage x\n-- pkg/x/b.go --\n// Package x is too.\npackage x\n",
				"-- pkg/x/x.go --\n// x does something.\npackage x\n",
			},
			good: []string{
				"-- pkg/x/a.go --\n// Package x is.\npackage x\n-- pkg/x/b.go --\npackage x\n",
				"-- plugins/multi-eni/main.go --\n// Multi-eni is a plugin.\npackage main\n",
				"-- test/x/x_test.go --\npackage x\n",
			},
		},
		{
			name:  "plugin-main",
			why:   "a plugin's main only wires the process edge; what it does is tested in plugins/internal",
			check: pluginMains,
			bad:   []string{"-- plugins/x/main.go --\n// X is.\npackage main\n" + strings.Repeat("\n", maxPluginMain)},
			good:  []string{"-- plugins/x/main.go --\n// X is.\npackage main\n" + strings.Repeat("\n", maxPluginMain-3)},
		},
		{
			name:  "func-length",
			why:   "a function that does not fit on a screen does several things",
			check: functionLengths,
			bad:   []string{"-- pkg/x/x.go --\npackage x\n" + function(maxFunc+1)},
			good: []string{
				"-- pkg/x/x.go --\npackage x\n" + function(maxFunc) + strings.Repeat(function(3), 10),
				"-- pkg/x/x_test.go --\npackage x\n" + function(maxFunc+1),
			},
		},
		{
			name:  "func-length-p90",
			why:   "nine functions in ten are read at a glance",
			check: functionP90,
			bad:   []string{"-- pkg/x/x.go --\npackage x\n" + strings.Repeat(function(maxFuncP90+1), 2) + strings.Repeat(function(3), 8)},
			good:  []string{"-- pkg/x/x.go --\npackage x\n" + function(maxFuncP90+1) + strings.Repeat(function(3), 19)},
		},
		{
			name:  "file-length",
			why:   "a file has one subject",
			check: fileLengths,
			bad:   []string{"-- pkg/x/x.go --\npackage x\n" + strings.Repeat("\n", maxFile)},
			good:  []string{"-- pkg/x/x.go --\npackage x\n" + strings.Repeat("\n", maxFile-2)},
		},
		{
			name:  "init",
			why:   "work done by init() cannot be skipped, ordered, tested or given an error; only pinning the main thread has to happen there",
			check: inits,
			bad: []string{
				"-- pkg/x/x.go --\npackage x\n\nfunc init() { register() }\n",
				"-- pkg/x/x_test.go --\npackage x\n\nfunc init() { runtime.LockOSThread(); register() }\n",
			},
			good: []string{"-- plugins/x/main.go --\npackage main\n\nfunc init() { runtime.LockOSThread() }\n"},
		},
	}
}

// function is a fixture: a function of that many lines.
func function(lines int) string {
	return "\nfunc _() {" + strings.Repeat("\n", lines-1) + "}\n"
}

func packageNames(tr tree) []string {
	banned := []string{"utils", "util", "common", "types", "helpers", "helper", "manager", "mocks", "mock", "misc"}
	var out []string
	for _, f := range tr.goFiles(func(file) bool { return true }) {
		if name := strings.TrimSuffix(f.ast.Name.Name, "_test"); slices.Contains(banned, name) {
			out = append(out, fmt.Sprintf("%s: package name %q", f.path, name))
		}
	}
	return out
}

func packageDocs(tr tree) []string {
	docs := map[string][]file{}
	var out []string
	for _, f := range tr.goFiles(func(f file) bool { return !strings.HasSuffix(f.path, "_test.go") }) {
		docs[f.dir()] = append(docs[f.dir()], f)
	}
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		var with []string
		for _, f := range docs[dir] {
			if f.ast.Doc == nil {
				continue
			}
			with = append(with, f.path)
			if name := f.ast.Name.Name; name != "main" && !strings.HasPrefix(f.ast.Doc.Text(), "Package "+name+" ") {
				out = append(out, fmt.Sprintf("%s: the package comment must begin with %q", f.path, "Package "+name))
			}
		}
		if len(with) != 1 {
			out = append(out, fmt.Sprintf("%s has %d package comments, needs one: %s", dir, len(with), strings.Join(with, ", ")))
		}
	}
	return out
}

func pluginMains(tr tree) []string {
	lines := map[string]int{}
	for _, f := range tr.goFiles(product) {
		if strings.HasPrefix(f.path, "plugins/") && f.ast.Name.Name == "main" {
			lines[f.dir()] += f.lines()
		}
	}
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(lines)) {
		if lines[dir] > maxPluginMain {
			out = append(out, fmt.Sprintf("%s: package main has %d lines, at most %d", dir, lines[dir], maxPluginMain))
		}
	}
	return out
}

// functions calls visit for each function of the product with its length.
func functions(tr tree, visit func(f file, fn *ast.FuncDecl, lines int)) {
	for _, f := range tr.goFiles(product) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				visit(f, fn, f.fset.Position(fn.End()).Line-f.fset.Position(fn.Pos()).Line+1)
			}
		}
	}
}

func functionLengths(tr tree) []string {
	var out []string
	functions(tr, func(f file, fn *ast.FuncDecl, lines int) {
		if lines > maxFunc {
			out = append(out, fmt.Sprintf("%s: func %s has %d lines, at most %d", f.at(fn.Pos()), fn.Name.Name, lines, maxFunc))
		}
	})
	return out
}

func functionP90(tr tree) []string {
	var lengths []int
	functions(tr, func(_ file, _ *ast.FuncDecl, lines int) { lengths = append(lengths, lines) })
	slices.Sort(lengths)
	if len(lengths) == 0 {
		return nil
	}
	if p90 := lengths[(len(lengths)-1)*9/10]; p90 > maxFuncP90 {
		return []string{fmt.Sprintf("one function in ten has %d lines or more, at most %d", p90, maxFuncP90)}
	}
	return nil
}

func fileLengths(tr tree) []string {
	var out []string
	for _, f := range tr.goFiles(product) {
		if f.lines() > maxFile {
			out = append(out, fmt.Sprintf("%s has %d lines, at most %d", f.path, f.lines(), maxFile))
		}
	}
	return out
}

func inits(tr tree) []string {
	var out []string
	for _, f := range tr.goFiles(func(file) bool { return true }) {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && fn.Name.Name == "init" && !onlyLocksThread(fn.Body) {
				out = append(out, f.at(fn.Pos())+": func init")
			}
		}
	}
	return out
}

func onlyLocksThread(body *ast.BlockStmt) bool {
	if len(body.List) != 1 {
		return false
	}
	stmt, ok := body.List[0].(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := stmt.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "LockOSThread"
}
