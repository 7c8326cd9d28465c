package arch

import (
	"fmt"
	"go/ast"
	"path"
	"strings"

	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

func configRules() []rule {
	return []rule{
		{
			name:  "unjudged-config",
			why:   "a config on which the device plugin ends must fail the test that has it written, whatever that test is about",
			check: unjudgedConfigs,
			bad: []string{
				"-- daemon/internal/x/x_test.go --\npackage x\n\nvar f = &pcidp.File{Path: \"x\"}\n",
				"-- daemon/internal/pcidp/x_test.go --\npackage pcidp\n\nvar f = File{Path: \"x\", Now: nil}\n",
				"-- conf/other/x.json --\n{\"resourceList\":[]}\n",
				"-- docs/x.md --\n```json\n{\"resourceList\":[{\"resourceName\":\"a.b\",\"selectors\":{}}]}\n```\n",
			},
			good: []string{
				"-- daemon/internal/x/x_test.go --\npackage x\n\nvar f = &pcidp.File{Path: \"x\", Written: judge}\n",
				"-- daemon/run.go --\npackage daemon\n\nvar f = &pcidp.File{Path: \"x\"}\n",
				"-- docs/x.md --\n```json\n{\"resourceList\":[{\"resourceName\":\"a-b\",\"selectors\":{}}]}\n```\n",
			},
		},
	}
}

// unjudgedConfigs are device plugin configs that a test writes without the model, and samples on which the plugin exits.
func unjudgedConfigs(tr tree) (out []string) {
	for _, f := range tr.files {
		switch {
		case f.ast != nil && strings.HasSuffix(f.path, "_test.go"):
			out = append(out, unwatched(f)...)
		case strings.HasPrefix(f.path, "conf/") && path.Ext(f.path) == ".json" && strings.Contains(f.text, `"resourceList"`):
			if v := dpmodel.Judge([]byte(f.text), nil); !v.Runs() {
				out = append(out, fmt.Sprintf("%s: the device plugin: %+v", f.path, v))
			}
		case path.Ext(f.path) == ".md":
			for i, block := range strings.Split(f.text, "```") {
				if content, ok := strings.CutPrefix(block, "json\n"); ok && i%2 == 1 && strings.Contains(content, `"resourceList"`) {
					if v := dpmodel.Judge([]byte(content), nil); !v.Runs() {
						out = append(out, fmt.Sprintf("%s: the device plugin: %+v", f.path, v))
					}
				}
			}
		}
	}
	return out
}

// unwatched are the literals of pcidp.File without Written.
func unwatched(f file) (out []string) {
	ast.Inspect(f.ast, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		name := ""
		switch typ := lit.Type.(type) {
		case *ast.SelectorExpr:
			if x, ok := typ.X.(*ast.Ident); ok {
				name = x.Name + "." + typ.Sel.Name
			}
		case *ast.Ident:
			name = path.Base(f.dir()) + "." + typ.Name
		}
		if name != "pcidp.File" {
			return true
		}
		for _, e := range lit.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Written" {
					return true
				}
			}
		}
		out = append(out, fmt.Sprintf("%s:%d: pcidp.File without Written: give it dpmodel.Judged", f.path, f.fset.Position(lit.Pos()).Line))
		return true
	})
	return out
}
