package arch

import (
	"fmt"
	"go/ast"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// oldWords are words that once named something else, or several things, with the words of
// docs/concepts.md that have taken their places.
var oldWords = map[string]string{
	"claim":   "device lock, declaration or owner; a claim will be a ResourceClaim",
	"herald":  "event sender",
	"logbook": "the log of beginnings and ends",
	"operate": "server",
	"tend":    "assign, or what is done",
}

func wordRules() []rule {
	return []rule{{
		name:  "old-word",
		why:   "one word means one thing in the whole repository; docs/concepts.md lists them",
		check: usesOfOldWords,
		bad: []string{
			"-- pkg/x/claim.go --\npackage x\n",
			"-- pkg/x/x.go --\npackage x\n\nfunc lockClaim() {}\n",
			"-- pkg/x/x.go --\npackage x\n\ntype T struct{ claims int }\n",
			"-- daemon/internal/operate/x.go --\n// Package operate is.\npackage operate\n",
			"-- pkg/x/x_test.go --\npackage x\n\nfunc f() { claimed := 1 }\n",
		},
		good: []string{"-- pkg/x/x.go --\npackage x\n\nfunc attendTo(intend, pretended int) {}\n"},
	}}
}

// camel divides an identifier into its words.
var camel = regexp.MustCompile(`[A-Z]?[a-z]+|[A-Z]+`)

func usesOfOldWords(tr tree) (out []string) {
	for _, f := range tr.goFiles(written) {
		names := map[string]string{path.Base(f.path): f.path, f.ast.Name.Name: f.at(f.ast.Name.Pos())}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && names[id.Name] == "" {
				names[id.Name] = f.at(id.Pos())
			}
			return true
		})
		for _, name := range slices.Sorted(maps.Keys(names)) {
			for _, word := range camel.FindAllString(name, -1) {
				word = strings.ToLower(word)
				for _, form := range []string{word, strings.TrimSuffix(word, "s"), strings.TrimSuffix(word, "ed")} {
					if instead, old := oldWords[form]; old {
						out = append(out, fmt.Sprintf("%s: %s: use %s", names[name], name, instead))
						break
					}
				}
			}
		}
	}
	return out
}
