package arch

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
)

func docRules() []rule {
	return append(append(reasonRules(), messageRules()...), []rule{
		{
			name:  "dead-link",
			why:   "a link that leads nowhere costs each reader more than it would have cost the writer",
			check: deadLinks,
			bad: []string{
				"-- README.md --\n[x](docs/none.md)\n",
				"-- README.md --\n[x](docs/a.md#no-such-part)\n-- docs/a.md --\n# Part\n",
				"-- docs/a.md --\n[x](../../outside.md)\n-- README.md --\nx\n",
				"-- README.md --\n![x](docs/none.svg)\n",
			},
			good: []string{
				"-- README.md --\n[x](docs/a.md#a-part) [y](docs) [z](#here) [w](https://example.com/none)\n# Here\n-- docs/a.md --\n## A part\n[up](../README.md)\n",
				"-- README.md --\n    [in code](none.md)\n",
			},
		},
		{
			name:  "unshown-security",
			why:   "a line of the security model that no test shows is a hope",
			check: unshownSecurity,
			bad: []string{
				"-- docs/security.md --\n| attempt | result | shown by |\n|---|---|---|\n| reads | cannot | |\n",
				"-- docs/security.md --\n| attempt | result | shown by |\n|---|---|---|\n| reads | cannot | TestNone |\n",
			},
			good: []string{"-- docs/security.md --\n| attempt | result | shown by |\n|---|---|---|\n| reads | cannot | TestReads |\n" +
				"-- x/x_test.go --\npackage x\n\nfunc TestReads(t *testing.T) {}\n"},
		},
	}...)
}

type page struct {
	anchors []string
	links   []string
}

func parsePage(content string) page {
	source := []byte(content)
	md := goldmark.New(goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	var p page
	// Walk ends with the error of the function, which returns none.
	_ = ast.Walk(md.Parser().Parse(text.NewReader(source)), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			if id, ok := n.AttributeString("id"); ok {
				if id, ok := id.([]byte); ok {
					p.anchors = append(p.anchors, string(id))
				}
			}
		case *ast.Link:
			p.links = append(p.links, string(n.Destination))
		case *ast.Image:
			p.links = append(p.links, string(n.Destination))
		}
		return ast.WalkContinue, nil
	})
	return p
}

func deadLinks(tr tree) (out []string) {
	pages := map[string]page{}
	for _, f := range tr.files {
		if path.Ext(f.path) == ".md" {
			pages[f.path] = parsePage(f.text)
		}
	}
	for from, p := range pages {
		for _, link := range p.links {
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			to, anchor, _ := strings.Cut(link, "#")
			target := from
			if to != "" {
				target = path.Join(path.Dir(from), to)
			}
			there := slices.ContainsFunc(tr.files, func(f file) bool { return f.path == target || strings.HasPrefix(f.path, target+"/") })
			if !there || anchor != "" && !slices.Contains(pages[target].anchors, anchor) {
				out = append(out, fmt.Sprintf("%s: %s", from, link))
			}
		}
	}
	slices.Sort(out)
	return out
}

func unshownSecurity(tr tree) (out []string) {
	tests := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, f := range tr.files {
		if strings.HasSuffix(f.path, "_test.go") {
			for _, m := range function.FindAllStringSubmatch(f.text, -1) {
				tests[m[1]] = true
			}
		}
	}
	for _, f := range tr.files {
		if f.path != "docs/security.md" {
			continue
		}
		for n, line := range strings.Split(f.text, "\n") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| attempt") {
				continue
			}
			if last := strings.TrimSpace(cells[len(cells)-1]); !tests[last] {
				out = append(out, fmt.Sprintf("%s:%d: there is no test %q", f.path, n+1, last))
			}
		}
	}
	return out
}
