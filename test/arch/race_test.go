package arch

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

func raceRules() []rule {
	return []rule{
		{
			name:  "unraced-package",
			why:   "make race leaves out the packages of PURE, in which nothing runs beside anything",
			check: unraced,
			bad: []string{
				"-- Makefile --\nPURE := x \\\n  y\n-- y/a.go --\npackage y\n\nfunc f() {\n\tgo f()\n}\n",
				"-- Makefile --\nPURE := x y\n-- x/a.go --\npackage x\n\nimport \"sync\"\n",
				"-- Makefile --\nPURE := x\n",
			},
			good: []string{"-- Makefile --\nPURE := x\n-- x/a.go --\npackage x\n-- y/a.go --\npackage y\n\nimport \"sync/atomic\"\n"},
		},
	}
}

var aGoroutine = regexp.MustCompile(`(?m)^\s+go (func|\w[\w.]*)\(|"(sync|sync/atomic|golang.org/x/sync/\w+)"`)

func unraced(tr tree) (out []string) {
	seen := map[string]bool{}
	for _, f := range tr.files {
		if f.path == "Makefile" {
			for _, m := range regexp.MustCompile(`(?m)^PURE := ((?:.*\\\n)*.*)$`).FindAllStringSubmatch(f.text, -1) {
				for _, name := range strings.Fields(strings.ReplaceAll(m[1], "\\", "")) {
					seen[name] = false
				}
			}
		}
	}
	for _, f := range tr.files {
		if _, pure := seen[path.Dir(f.path)]; pure && path.Ext(f.path) == ".go" {
			seen[path.Dir(f.path)] = true
			if m := aGoroutine.FindString(f.text); m != "" {
				out = append(out, fmt.Sprintf("%s: it has %q, and make race does not run the tests of PURE", f.path, strings.TrimSpace(m)))
			}
		}
	}
	for name, there := range seen {
		if !there {
			out = append(out, "PURE names "+name+", which has no Go file")
		}
	}
	return out
}
