// Package arch holds the repository's own rules as ordinary tests: who may
// import whom, how long a function may be, what a file must not contain. Each
// rule says why it stands, and is shown to fail on a fixture that breaks it.
package arch

import (
	"slices"
	"testing"
)

// rule is one thing that the whole repository keeps.
type rule struct {
	name  string
	why   string
	check func(tree) []string // one line for each violation
	bad   []string            // fixtures, each of which breaks the rule
	good  []string            // fixtures near the border that keep it
}

func rules() []rule {
	return slices.Concat(importRules(), sourceRules(), layerRules(), textRules(), docRules(), sentenceRules(), proseRules(),
		commentRules(), configRules(), forgeRules(), raceRules(), versionRules(), diagramRules(), architectureRules(), wordRules())
}

func TestRules(t *testing.T) {
	tr := load(t)
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for _, violation := range r.check(tr) {
				t.Errorf("%s\n\twhy: %s", violation, r.why)
			}
		})
	}
}

// TestRulesCanFail keeps the rules honest: a rule that cannot fail is worthless.
func TestRulesCanFail(t *testing.T) {
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			if r.why == "" || len(r.bad) == 0 {
				t.Fatal("a rule needs its reason and a fixture that breaks it")
			}
			for _, text := range r.bad {
				if got := r.check(fixture(t, text)); len(got) == 0 {
					t.Errorf("the rule accepts\n%s", text)
				}
			}
			for _, text := range r.good {
				if got := r.check(fixture(t, text)); len(got) > 0 {
					t.Errorf("the rule refuses %q in\n%s", got, text)
				}
			}
		})
	}
}
