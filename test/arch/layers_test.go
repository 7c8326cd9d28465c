package arch

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path"
	"slices"
	"strings"
)

const (
	maxPackage = 2000 // lines of source, tests not counted
	maxDaemon  = 1200 // lines of the daemon's package main
)

var layered = []string{"daemon"}

func layerRules() []rule {
	const one, two = "-- daemon/a.go --\npackage main\n\ntype t struct{}\n\n", "-- daemon/b.go --\npackage main\n\n"
	big := "-- pkg/x/x.go --\npackage x\n-- pkg/x/y.go --\npackage x\n" + strings.Repeat("\n", maxPackage)
	size := rule{
		name:  "package-length",
		why:   "a package above this size has several subjects; divide it",
		check: packageLengths,
		bad:   []string{big, "-- daemon/a.go --\npackage main\n" + strings.Repeat("\n", maxDaemon)},
		good:  []string{strings.Replace(big, "\n\n\n\n", "\n", 1), big[:len(big)/2] + "-- pkg/x/x_test.go --\npackage x\n" + big[len(big)/2:]},
	}
	return []rule{
		{
			name:  "file-layers",
			why:   "whoever reads a file reads the files that it uses, and no file twice; move the declaration down, or to a package of its own",
			check: fileCycles,
			bad: []string{
				one + "func f() { g() }\n" + two + "func g() { f() }\n",
				one + "func (t) f() { g() }\n" + two + "func g() { t{}.f() }\n",
				one + "func f() { g() }\n" + two + "func g() { h() }\n-- daemon/c.go --\npackage main\n\nimport _ \"net\"\n\nfunc h(t) {}\n",
			},
			good: []string{
				one + "func f() {}\n" + two + "func (t) g() { f() }\n",
				one + "func f() { g := 1; _ = g }\n" + two + "func g() { f() }\n",
				one + "func f() { g() }\n-- daemon/b_test.go --\npackage main\n\nfunc g() { f() }\n",
			},
		},
		size,
	}
}

type use struct{ at, name, of string }

// fileUses returns the uses in each file of a folder. It knows methods only where no other package has their type.
func fileUses(tr tree, folder string) map[string][]use {
	uses := map[string][]use{}
	fset := token.NewFileSet() // one for all: types.Config asks for it
	var parsed []*ast.File
	for _, f := range tr.goFiles(func(f file) bool { return product(f) && f.dir() == folder }) {
		uses[f.path] = nil
		again, _ := parser.ParseFile(fset, f.path, f.text, 0) // the tree has parsed it before
		parsed = append(parsed, again)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: noPackages{}, Error: func(error) {}} // names of other packages are faults
	config.Check(folder, fset, parsed, info)                              //nolint:errcheck,gosec // likewise
	for id, o := range info.Uses {
		if o.Pkg() == nil || o.Pkg().Path() != folder || o.Parent() != o.Pkg().Scope() && !isMethod(o) {
			continue
		}
		at, of := fset.Position(id.Pos()), fset.Position(o.Pos()).Filename
		if at.Filename != of {
			uses[at.Filename] = append(uses[at.Filename], use{fmt.Sprintf("%s:%d", at.Filename, at.Line), id.Name, of})
		}
	}
	for _, of := range uses {
		slices.SortFunc(of, func(a, b use) int { return cmp.Or(cmp.Compare(a.of, b.of), cmp.Compare(a.at, b.at)) })
	}
	return uses
}

func isMethod(o types.Object) bool {
	f, ok := o.(*types.Func)
	return ok && f.Signature().Recv() != nil
}

// noPackages imports every package as an empty one.
type noPackages struct{}

func (noPackages) Import(p string) (*types.Package, error) {
	empty := types.NewPackage(p, path.Base(p))
	empty.MarkComplete()
	return empty, nil
}

func fileCycles(tr tree) (out []string) {
	for _, folder := range layered {
		uses := fileUses(tr, folder)
		for _, from := range slices.Sorted(maps.Keys(uses)) {
			said := map[string]bool{}
			for _, u := range uses[from] {
				if !said[u.of] && reaches(uses, u.of, from) {
					said[u.of] = true
					out = append(out, fmt.Sprintf("%s: uses %s of %s, which uses this file, itself or through others", u.at, u.name, path.Base(u.of)))
				}
			}
		}
	}
	return out
}

func reaches(uses map[string][]use, from, to string) bool {
	seen := map[string]bool{from: true}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, u := range uses[queue[0]] {
			if u.of == to {
				return true
			}
			if !seen[u.of] {
				seen[u.of] = true
				queue = append(queue, u.of)
			}
		}
	}
	return false
}

func packageLengths(tr tree) (out []string) {
	lines := map[string]int{}
	for _, f := range tr.goFiles(product) {
		lines[f.dir()] += f.lines()
	}
	for _, dir := range slices.Sorted(maps.Keys(lines)) {
		most := maxPackage
		if dir == "daemon" {
			most = maxDaemon
		}
		if lines[dir] > most {
			out = append(out, fmt.Sprintf("%s has %d lines of source, at most %d", dir, lines[dir], most))
		}
	}
	return out
}
