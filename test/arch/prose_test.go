package arch

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	maxWords   = 30  // of a sentence; a span of code is one word
	maxColumns = 160 // of a line of a page
	maxClauses = 2   // heavy clauses in 1,000 words, and one on a shorter page
)

func proseRules() []rule {
	words := func(n int) string { return strings.Repeat("word ", n-1) + "word" }
	return []rule{
		{
			name:  "long-sentence",
			why:   "a reader who has forgotten the beginning of a sentence at its end starts again",
			check: longSentences,
			bad: []string{
				"-- x.md --\n" + words(31) + ".\n",
				"-- x.md --\n# " + words(31) + "\n",
				"-- x.md --\n- " + words(15) + "\n  " + words(16) + "\n",
				"-- x.md --\n| a | b |\n|---|---|\n| x | " + words(31) + " |\n",
				"-- x.md --\n" + words(29) + " [two words](https://example.com).\n",
				"-- deploy/crd/x.yaml --\nproperties:\n  x:\n    description: " + words(31) + "\n",
				"-- daemon/x.go --\npackage x\n\nfunc f() { f.StringVar(&x, \"x\", \"\", \"" + words(31) + "\") }\n",
			},
			good: []string{
				"-- x.md --\n" + words(29) + " `one span of code`. " + words(30) + "? `x` " + words(29) + "\n",
				"-- x.md --\n- " + words(20) + "\n- " + words(20) + "\n\n" + words(20) + "\n",
				"-- x.md --\n| " + words(20) + " | " + words(20) + " |\n|---|---|\n| x | " + words(20) + " |\n",
				"-- x.md --\n```\n" + words(31) + "\n```\n\n    " + words(31) + "\n",
				"-- daemon/x.go --\npackage x\n\nfunc f() { f.StringVar(&x, \"x\", \"\", \"" + words(30) + "\") }\n",
			},
		},
		{
			name:  "heavy-clause",
			why:   "\"what goes back\", \"those that have one\" and \"who has it\" hide the thing behind a clause: name it",
			check: heavyClauses,
			bad: []string{
				"-- x.md --\nWhat goes back is retired. It shows what is left.\n",
				"-- x.md --\nThe name is that of the pod. Those that have none wait.\n",
				"-- x.md --\nWho has the ENI has its addresses. It goes to who shares it.\n",
				"-- x.md --\n" + strings.Repeat(words(19)+" what. ", 3) + words(900) + "\n",
				"-- x.md --\nSay what.\n" + words(500) + "\n-- y.md --\nSay what.\n" + words(400) + "\n",
				"-- deploy/crd/x.yaml --\ndescription: What one node knows of what it has.\n",
				"-- daemon/x.go --\npackage x\n\nfunc f() { f.BoolVar(&x, \"x\", false, \"what goes back is that of the pod\") }\n",
			},
			good: []string{
				"-- x.md --\n# What is an ENI?\nPods, which share it, and people who own one, know that. Print `what` and \"what it is\".\n",
				"-- x.md --\nSay what.\n",
				"-- x.md --\n" + strings.Repeat(words(19)+" what. ", 2) + words(960) + "\n",
			},
		},
		{
			name:  "heavy-message",
			why:   "a message is read in a hurry: name the thing and the actor",
			check: heavyMessages,
			bad:   []string{"-- pkg/x/x.go --\npackage x\n\nvar a, b = \"remove what a killed install left\", \"who has it cannot be seen\"\n"},
			good: []string{
				"-- pkg/x/x.go --\npackage x\n\nvar a, b = \"say what\", \"remove what a killed install left\"\n",
				"-- pkg/x/x_test.go --\npackage x\n\nvar a, b = \"remove what a killed install left\", \"who has it cannot be seen\"\n",
			},
		},
		{
			name:  "no-audience",
			why:   "a reader who learns in the first sentence for whom a page is, knows whether to read on",
			check: noAudience,
			bad:   []string{"-- docs/x.md --\n# Title\n\nIt does much.\n\nThis page is for users.\n", "-- docs/x.md --\n# Title\n\n- This page is for users.\n"},
			good: []string{
				"-- docs/x.md --\n<!-- generated -->\n# Title\n\nThis page is for\nusers.\n",
				"-- README.md --\n# Title\n\n![picture](x.svg)\n\n**A pod gets it.** The project is for engineers.\n",
				"-- docs/adr/0001-x.md --\n# Title\n\nStatus: accepted\n",
			},
		},
		{
			name:  "wide-line",
			why:   "a line that does not fit into a window or a diff is not read; make a wide table a list",
			check: wideLines,
			bad:   []string{"-- x.md --\n" + strings.Repeat("x", maxColumns+1) + "\n", "-- docs/x.md --\n| " + strings.Repeat("x", maxColumns) + " |\n"},
			good:  []string{"-- x.md --\n" + strings.Repeat("ä", maxColumns) + "\n", "-- x.yaml --\n" + strings.Repeat("x", maxColumns+1) + "\n"},
		},
	}
}

func wideLines(tr tree) (out []string) {
	for _, f := range tr.files {
		if path.Ext(f.path) != ".md" {
			continue
		}
		for n, line := range strings.Split(f.text, "\n") {
			if columns := utf8.RuneCountInString(line); columns > maxColumns {
				out = append(out, fmt.Sprintf("%s:%d: %d columns", f.path, n+1, columns))
			}
		}
	}
	return out
}

// noAudience returns the pages whose first paragraph names no readers; decisions take those of their index.
func noAudience(tr tree) (out []string) {
	for _, f := range tr.files {
		form := strings.HasPrefix(f.path, "docs/adr/0") || strings.HasPrefix(f.path, ".github/")
		if path.Ext(f.path) == ".md" && !form && !audience.MatchString(firstParagraph(f.text)) {
			out = append(out, fmt.Sprintf("%s: for whom is it? Write: This page is for …", f.path))
		}
	}
	return out
}

var audience = regexp.MustCompile(`^For |\bis for\s`)

func longSentences(tr tree) (out []string) {
	for _, p := range prose(tr) {
		for _, s := range p.sentences {
			if n := words(s); n > maxWords {
				out = append(out, fmt.Sprintf("%s: %d words: %s", p.path, n, s))
			}
		}
	}
	return out
}

var (
	heavy = regexp.MustCompile(`(?i)\bwhat\b|\b(that|those) of\b|\bthose (that|which|who|whose)\b|\bthat which\b|` +
		`(^|[,;:(] ?|\b(to|for|of|by|from|with|and|or|on|in|not|is|are|than|but|says?|shows?|tells?|names?|knows?) )who(m|ever)?\b`)
	quoted = regexp.MustCompile(`"[^"]*"|“[^”]*”`)
)

func heavyClauses(tr tree) (out []string) {
	var all []string
	allWords := 0
	for _, p := range prose(tr) {
		found, total := p.clauses()
		if tooMany(found, total) {
			out = append(out, found...)
		}
		all, allWords = append(all, found...), allWords+total
	}
	if len(out) == 0 && tooMany(all, allWords) {
		return all
	}
	return out
}

// heavyMessages judges the strings of the product of four words and more, all together.
func heavyMessages(tr tree) []string {
	var all []string
	allWords := 0
	for _, f := range tr.goFiles(product) {
		found, total := writing{path: f.path, sentences: messageSentences(f)}.clauses()
		all, allWords = append(all, found...), allWords+total
	}
	if tooMany(all, allWords) {
		return all
	}
	return nil
}

func tooMany(found []string, words int) bool {
	return len(found) > 1 && len(found)*1000 > maxClauses*words
}

func (p writing) clauses() (found []string, total int) {
	for _, s := range p.sentences {
		total += words(s)
		if strings.HasSuffix(s, "?") {
			continue
		}
		for _, m := range heavy.FindAllString(quoted.ReplaceAllString(s, "`"), -1) {
			found = append(found, fmt.Sprintf("%s: %q in: %s", p.path, strings.TrimSpace(m), s))
		}
	}
	return found, total
}
