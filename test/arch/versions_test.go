package arch

import (
	"fmt"
	"regexp"
	"strings"
)

const compatibilityPage = "docs/compatibility.md"

// testedVersions maps text of the page of versions to the module that the tests link. Text has VERSION where the page has a number.
var testedVersions = []struct{ text, modules, module, version string }{
	{"| Kubernetes | VERSION and later | VERSION tested", "test/kube/binaries/go.mod", "k8s.io/kubernetes", `v(\d+\.\d+)`},
	{"| Helm | VERSION and later | VERSION tested", "test/kube/binaries/go.mod", "helm.sh/helm/v3", `v(\d+\.\d+)`},
	{"reference plugins VERSION", "test/tools/go.mod", "github.com/containernetworking/plugins", `v([\d.]+)`},
	{"whereabouts VERSION", "test/tools/go.mod", "github.com/k8snetworkplumbingwg/whereabouts", `v([\d.]+)`},
}

func versionRules() []rule {
	const modules = "-- test/kube/binaries/go.mod --\nrequire k8s.io/kubernetes v1.36.3\nrequire helm.sh/helm/v3 v3.21.4\n-- test/tools/go.mod --\n" +
		"\tgithub.com/containernetworking/plugins v1.9.1 // indirect\n\tgithub.com/k8snetworkplumbingwg/whereabouts v0.9.2\n-- " + compatibilityPage + " --\n"
	const page = "| Kubernetes | 1.30 and later | 1.36 tested |\n| Helm | 3.14 and later | 3.21 tested |\nreference plugins 1.9.1, whereabouts 0.9.2\n"
	return []rule{{
		name:  "tested-version",
		why:   "people choose versions by " + compatibilityPage + ", which must tell those that the tests have",
		check: checkTestedVersions,
		bad:   []string{modules + strings.Replace(page, "3.21", "3.19", 1), modules + strings.Replace(page, "1.9.1", "1.9.0", 1), modules + page[:40]},
		good:  []string{modules + page},
	}}
}

func checkTestedVersions(tr tree) (out []string) {
	texts := map[string]string{}
	for _, f := range tr.files {
		texts[f.path] = f.text
	}
	page, ok := texts[compatibilityPage]
	if !ok {
		return nil // a fixture of another rule
	}
	for _, v := range testedVersions {
		pinned := regexp.MustCompile(`(?m)\b` + regexp.QuoteMeta(v.module) + ` ` + v.version).FindStringSubmatch(texts[v.modules])
		told := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(v.text), "VERSION", `(\d+(?:\.\d+)+)`)).FindStringSubmatch(page)
		switch {
		case pinned == nil:
			out = append(out, v.modules+" does not require "+v.module)
		case told == nil:
			out = append(out, fmt.Sprintf("%s: it does not say %q", compatibilityPage, v.text))
		case told[len(told)-1] != pinned[1]:
			out = append(out, fmt.Sprintf("%s: it says %q, but %s has %s %s", compatibilityPage, told[0], v.modules, v.module, pinned[1]))
		}
	}
	return out
}
