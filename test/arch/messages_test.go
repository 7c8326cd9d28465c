package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

const shownMessages = "### Messages of multi-eni and eni-ipam\n"

func messageRules() []rule {
	page := "-- docs/troubleshooting.md --\n" + shownMessages + "| message | code | to do |\n|---|---|---|\n| `device … is held by …` | 101 | wait |\n"
	return []rule{{
		name:  "unknown-message",
		why:   "a reader searches docs/troubleshooting.md for the text of an Event; a text that no plugin writes is never found",
		check: unknownMessages,
		bad: []string{
			page,
			page + "-- plugins/x/x.go --\n// X is.\npackage main\n\nvar s = \"is held by device\"\n",
			page + "-- docs/x.go --\n// Package x is.\npackage x\n\nvar s = \"device %s is held by %s\"\n",
			"-- docs/troubleshooting.md --\n# No table\n",
		},
		good: []string{page + "-- plugins/x/x.go --\n// X is.\npackage main\n\nvar s = f(\"device %s \"+\"is held by %s\", x)\n"},
	}}
}

func unknownMessages(tr tree) (out []string) {
	var texts []string
	for _, f := range tr.goFiles(func(f file) bool {
		return under(f.path, []string{"plugins", "pkg"}) && !strings.HasSuffix(f.path, "_test.go")
	}) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if text := joined(e); text != "" {
					texts = append(texts, text)
				}
			}
			return true
		})
	}
	for _, f := range tr.files {
		if f.path != "docs/troubleshooting.md" {
			continue
		}
		_, table, ok := strings.Cut(f.text, shownMessages)
		if !ok {
			return []string{f.path + " has no part " + shownMessages}
		}
		table, _, _ = strings.Cut(table, "\n#")
		for row := range strings.Lines(table) {
			if message, _, ok := strings.Cut(strings.TrimPrefix(row, "| `"), "` |"); ok && strings.HasPrefix(row, "| `") && !anyHas(texts, message) {
				out = append(out, fmt.Sprintf("%s: no plugin says %q", f.path, message))
			}
		}
	}
	return out
}

// joined is the text of an expression of string literals, with … for other parts; "" for
// an expression without any.
func joined(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, _ := strconv.Unquote(e.Value) // the parser has accepted it
			return text
		}
	case *ast.BinaryExpr:
		return joined(e.X) + joined(e.Y)
	}
	return ""
}

// anyHas says whether one of the texts has the parts of a message between …, in order.
func anyHas(texts []string, message string) bool {
	for _, text := range texts {
		found := true
		for part := range strings.SplitSeq(message, "…") {
			var before bool
			_, text, before = strings.Cut(text, strings.TrimSpace(part))
			found = found && before
		}
		if found {
			return true
		}
	}
	return false
}
