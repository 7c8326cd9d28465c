package arch

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	projectURL   = "https://github.com/multi-eni/multi-eni-cni/"
	renovateFile = "renovate.json"
	pinned       = "github.com/containernetworking/cni"
)

func forgeRules() []rule {
	const workflow = "-- .ci/run --\nx\n-- Makefile --\nrelease: x\n-- .github/workflows/x.yml --\npermissions: {contents: read}\n" +
		"jobs:\n  x:\n    timeout-minutes: 9\n    steps:\n"
	const uses = "    - uses: a/b@3d3c42e5aac5ba805825da76410c181273ba90b1 # v1.0.0\n"
	const form = "-- .github/ISSUE_TEMPLATE/x.yml --\nname: X\ndescription: Y\nbody:\n"
	const modules = "-- go.mod --\nrequire github.com/containernetworking/cni v1.3.0\n-- test/x/go.mod --\nmodule y\n-- " + renovateFile + " --\n"
	const pin = `{"matchPackageNames":["` + pinned + `"],"allowedVersions":"<=1.3.0"}`
	return []rule{
		{
			name:  "workflow",
			why:   "nobody runs a workflow before it is on the forge, where it must not have rights or code that nobody chose",
			check: workflows,
			bad: []string{
				workflow + uses + "    - run: [\n",
				workflow + "    - uses: a/b@v1\n",
				workflow + "    - run: make no-such-target\n",
				workflow + "    - run: .ci/none\n",
				strings.Replace(workflow, "permissions: {contents: read}\n", "", 1) + uses,
				strings.Replace(workflow, "    timeout-minutes: 9\n", "", 1) + uses,
			},
			good: []string{workflow + uses + "    - run: sudo .ci/run && make release VERSION=1\n"},
		},
		{
			name:  "issue-form",
			why:   "the forge shows a form with a fault to nobody, and says so nowhere",
			check: issueForms,
			bad: []string{
				form, form + "- type: text\n  id: a\n  attributes: {label: A}\n", form + "- type: input\n  id: a\n",
				form + "- type: input\n  id: a\n  attributes: {label: A}\n- type: input\n  id: a\n  attributes: {label: B}\n",
				"-- .github/ISSUE_TEMPLATE/config.yml --\ncontact_links:\n- {name: X, url: " + projectURL + "blob/main/none.md, about: Y}\n",
			},
			good: []string{
				form + "- type: input\n  id: a\n  attributes: {label: A}\n- type: markdown\n  attributes: {value: x}\n",
				"-- .github/ISSUE_TEMPLATE/config.yml --\ncontact_links:\n- {name: X, url: " + projectURL + "blob/main/a.md, about: Y}\n-- a.md --\nx\n",
			},
		},
		{
			name:  "unwatched-module",
			why:   "a module that renovate leaves out keeps its vulnerabilities; by default it leaves out everything below test/",
			check: unwatchedModules,
			bad: []string{
				modules + "{\n", modules + `{"enabledManagers":["gomod"],"packageRules":[` + pin + `]}`,
				modules + `{"ignorePaths":["**/test/**"],"enabledManagers":["gomod"],"packageRules":[` + pin + `]}`,
				modules + `{"ignorePaths":[],"enabledManagers":["npm"],"packageRules":[` + pin + `]}`,
				modules + `{"ignorePaths":[],"packageRules":[]}`,
				modules + `{"ignorePaths":[],"packageRules":[` + strings.Replace(pin, "1.3.0", "1.3.1", 1) + `]}`,
				modules + `{"ignorePaths":[],"packageRules":[` + pin + `,{"matchFileNames":["none/go.mod"]}]}`,
			},
			good: []string{modules + `{"ignorePaths":[],"enabledManagers":["gomod"],"packageRules":[` + pin + `,{"matchFileNames":["test/**/go.mod"]}]}`},
		},
		{
			name:  "unknown-target",
			why:   "a command in a document is copied and run",
			check: unknownTargets,
			bad:   []string{"-- x.md --\nRun `make nothing`.\n-- Makefile --\ntest: x\n", "-- x.md --\n    make nothing   # x\n"},
			good:  []string{"-- x.md --\nRun `make test` and\n\n    sudo make image IMAGE=x\n\nto make sure.\n-- Makefile --\ntest bench: x\n-- x.mk --\nimage: x\n"},
		},
		{
			name:  "lane-time",
			why:   "each page gives the time of a lane as make help does",
			check: laneTimes,
			bad:   []string{"-- CONTRIBUTING.md --\n| `make test` | x | y | 3 min |\n-- Makefile --\ntest: ## Run it (4 min)\n"},
			good:  []string{"-- CONTRIBUTING.md --\n| `make test` | x | y | 4 min; 8 min |\n-- Makefile --\ntest: x ## Run it (all) (4 min; 8 min)\n"},
		},
		{
			name:  "unknown-place",
			why:   "CONTRIBUTING.md and test/README.md send people to files and tests, which must be there",
			check: unknownPlaces,
			bad: []string{"-- CONTRIBUTING.md --\nSee `pkg/none.go`.\n", "-- CONTRIBUTING.md --\nTestNone fails.\n",
				"-- CONTRIBUTING.md --\nThe rule no-such-rule fails.\n"},
			good: []string{"-- CONTRIBUTING.md --\nSee `pkg/` and `pkg/x_test.go`: TestX, and the rule dead-link.\n" +
				"-- pkg/x_test.go --\npackage x\n\nfunc TestX(t *testing.T) {}\n-- test/arch/x_test.go --\npackage arch\n\nvar _ = rule{name: \"dead-link\"}\n"},
		},
	}
}

func targets(tr tree) map[string]bool {
	out := map[string]bool{}
	for _, f := range tr.files {
		if f.path != "Makefile" && path.Ext(f.path) != ".mk" {
			continue
		}
		for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z -]*):`).FindAllStringSubmatch(f.text, -1) {
			for _, name := range strings.Fields(m[1]) {
				out[name] = true
			}
		}
	}
	return out
}

func (tr tree) has(name string) bool {
	name = strings.TrimSuffix(name, "/")
	return slices.ContainsFunc(tr.files, func(f file) bool { return f.path == name || strings.HasPrefix(f.path, name+"/") })
}

var (
	aPin    = regexp.MustCompile(`@[0-9a-f]{40} # v\d`)
	aMake   = regexp.MustCompile(`\bmake ([a-z][a-z-]*)`)
	aScript = regexp.MustCompile(`(?:^|\s)(\.?[\w.-]+/[\w./-]+)(?:\s|$)`)
)

func workflows(tr tree) (out []string) {
	known := targets(tr)
	for _, f := range tr.files {
		if path.Dir(f.path) != ".github/workflows" {
			continue
		}
		var w struct {
			Permissions map[string]string
			Jobs        map[string]struct {
				TimeoutMinutes int `json:"timeout-minutes"`
				Steps          []struct{ Uses, Run string }
			}
		}
		if err := yaml.Unmarshal([]byte(f.text), &w); err != nil {
			out = append(out, fmt.Sprintf("%s: %v", f.path, err))
			continue
		}
		if len(w.Permissions) == 0 || len(w.Jobs) == 0 {
			out = append(out, f.path+": needs permissions for all jobs, and jobs")
		}
		for name, job := range w.Jobs {
			if job.TimeoutMinutes == 0 || len(job.Steps) == 0 {
				out = append(out, fmt.Sprintf("%s: job %s needs timeout-minutes and steps", f.path, name))
			}
			for _, s := range job.Steps {
				for _, m := range aMake.FindAllStringSubmatch(s.Run, -1) {
					if !known[m[1]] {
						out = append(out, fmt.Sprintf("%s: make has no target %s", f.path, m[1]))
					}
				}
				for _, m := range aScript.FindAllStringSubmatch(s.Run, -1) {
					if !strings.HasPrefix(m[1], "bin/") && !tr.has(m[1]) {
						out = append(out, fmt.Sprintf("%s: there is no %s", f.path, m[1]))
					}
				}
			}
		}
		for line := range strings.Lines(f.text) {
			if strings.Contains(line, "uses:") && !aPin.MatchString(line) {
				out = append(out, fmt.Sprintf("%s: pin the action by its commit, with the version as a comment: %s", f.path, strings.TrimSpace(line)))
			}
		}
	}
	return out
}

func issueForms(tr tree) (out []string) {
	for _, f := range tr.files {
		if path.Dir(f.path) != ".github/ISSUE_TEMPLATE" {
			continue
		}
		var form struct {
			Name, Description string
			Labels            []string
			Body              []struct {
				Type, ID   string
				Attributes struct{ Label, Description, Placeholder, Render, Value string }
				Validation struct{ Required bool } `json:"validations"`
			}
			Blank *bool                               `json:"blank_issues_enabled"`
			Links []struct{ Name, URL, About string } `json:"contact_links"`
		}
		fault := func(format string, args ...any) { out = append(out, f.path+": "+fmt.Sprintf(format, args...)) }
		if err := yaml.UnmarshalStrict([]byte(f.text), &form); err != nil {
			fault("%v", err)
			continue
		}
		for _, l := range form.Links {
			rest, ours := strings.CutPrefix(l.URL, projectURL+"blob/main/")
			if l.Name == "" || l.About == "" || !strings.HasPrefix(l.URL, "https://") || ours && !tr.has(rest) {
				fault("link %q to %q", l.Name, l.URL)
			}
		}
		if path.Base(f.path) == "config.yml" {
			continue
		}
		if form.Name == "" || form.Description == "" || len(form.Body) == 0 {
			fault("needs name, description and body")
		}
		var ids []string
		for _, e := range form.Body {
			if !slices.Contains([]string{"markdown", "input", "textarea", "dropdown", "checkboxes"}, e.Type) {
				fault("type %q", e.Type)
			}
			if e.Type == "markdown" && e.Attributes.Value == "" || e.Type != "markdown" && (e.Attributes.Label == "" || e.ID == "" || slices.Contains(ids, e.ID)) {
				fault("element %q needs a label and an id of its own", e.ID)
			}
			ids = append(ids, e.ID)
		}
	}
	return out
}

func unwatchedModules(tr tree) (out []string) {
	var config struct {
		IgnorePaths, EnabledManagers []string
		PackageRules                 []struct {
			MatchPackageNames, MatchFileNames []string
			AllowedVersions                   string
		}
	}
	var text, version string
	var modules []string
	for _, f := range tr.files {
		switch {
		case f.path == renovateFile:
			text = f.text
		case path.Base(f.path) == "go.mod":
			modules = append(modules, f.path)
			if m := regexp.MustCompile(regexp.QuoteMeta(pinned) + ` v(\S+)`).FindStringSubmatch(f.text); m != nil && f.path == "go.mod" {
				version = m[1]
			}
		}
	}
	if len(modules) == 0 {
		return nil
	}
	fault := func(format string, args ...any) { out = append(out, renovateFile+": "+fmt.Sprintf(format, args...)) }
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return append(out, fmt.Sprintf("%s: %v", renovateFile, err))
	}
	if config.IgnorePaths == nil {
		fault("without ignorePaths the preset's hold, which leave out test/")
	}
	if config.EnabledManagers != nil && !slices.Contains(config.EnabledManagers, "gomod") {
		fault("enabledManagers lacks gomod")
	}
	for _, m := range modules {
		if i := slices.IndexFunc(config.IgnorePaths, func(glob string) bool { return globbed(glob, m) }); i >= 0 {
			fault("ignorePaths %q leaves out %s", config.IgnorePaths[i], m)
		}
	}
	held := false
	for _, r := range config.PackageRules {
		held = held || slices.Contains(r.MatchPackageNames, pinned) && r.AllowedVersions == "<="+version
		for _, glob := range r.MatchFileNames {
			if !slices.ContainsFunc(modules, func(m string) bool { return globbed(glob, m) }) {
				fault("no module is called %q", glob)
			}
		}
	}
	if !held {
		fault("a rule must keep %s at <=%s, the version of go.mod", pinned, version)
	}
	return out
}

// globbed says whether a path matches a glob of renovate, in which ** stands for folders.
func globbed(glob, name string) bool {
	re := strings.NewReplacer(`\*\*/`, `(.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`).Replace(regexp.QuoteMeta(glob))
	return regexp.MustCompile("^" + re + "$").MatchString(name)
}

var aCommand = regexp.MustCompile("`(?:sudo )?make ([a-z][a-z-]*)|^ +(?:sudo )?make ([a-z][a-z-]*)")

func unknownTargets(tr tree) (out []string) {
	known := targets(tr)
	for _, f := range tr.files {
		if path.Ext(f.path) != ".md" || strings.Contains(f.path, "testdata") {
			continue
		}
		for n, line := range strings.Split(f.text, "\n") {
			for _, m := range aCommand.FindAllStringSubmatch(line, -1) {
				if name := m[1] + m[2]; !known[name] {
					out = append(out, fmt.Sprintf("%s:%d: make has no target %s", f.path, n+1, name))
				}
			}
		}
	}
	return out
}

func laneTimes(tr tree) (out []string) {
	times := map[string]string{}
	for _, f := range tr.files {
		if f.path == "Makefile" || path.Ext(f.path) == ".mk" {
			for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):.*## .*\(([^()]*\w [^()]*)\)$`).FindAllStringSubmatch(f.text, -1) {
				times[m[1]] = m[2]
			}
		}
	}
	for _, f := range tr.files {
		if path.Ext(f.path) != ".md" {
			continue
		}
		for _, m := range regexp.MustCompile("(?m)^\\| `make ([a-z-]+)` \\|.*\\| ([^|]*) \\|$").FindAllStringSubmatch(f.text, -1) {
			if want, ok := times[m[1]]; ok && m[2] != want {
				out = append(out, fmt.Sprintf("%s: make %s takes %q, not %q", f.path, m[1], want, m[2]))
			}
		}
	}
	return out
}

var (
	aPlace = regexp.MustCompile("`([A-Za-z.][\\w.-]*/[\\w./-]*)`")
	aTest  = regexp.MustCompile(`\bTest[A-Z]\w+`)
	aRule  = regexp.MustCompile(`\brule ([a-z]+-[a-z-]+)`)
)

func unknownPlaces(tr tree) (out []string) {
	tests, names := map[string]bool{}, []string{}
	for _, f := range tr.files {
		if strings.HasSuffix(f.path, "_test.go") {
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(f.text, -1) {
				tests[m[1]] = true
			}
			for _, m := range regexp.MustCompile(`name: +"([a-z-]+)"`).FindAllStringSubmatch(f.text, -1) {
				names = append(names, m[1])
			}
		}
	}
	for _, f := range tr.files {
		if f.path != "CONTRIBUTING.md" && f.path != "test/README.md" {
			continue
		}
		for _, m := range aPlace.FindAllStringSubmatch(f.text, -1) {
			if !tr.has(m[1]) && m[1] != "bin/" {
				out = append(out, fmt.Sprintf("%s: there is no %s", f.path, m[1]))
			}
		}
		for _, name := range aTest.FindAllString(f.text, -1) {
			if !tests[name] {
				out = append(out, fmt.Sprintf("%s: there is no test %s", f.path, name))
			}
		}
		for _, m := range aRule.FindAllStringSubmatch(f.text, -1) {
			if !slices.Contains(names, m[1]) {
				out = append(out, fmt.Sprintf("%s: there is no rule %s", f.path, m[1]))
			}
		}
	}
	return out
}
