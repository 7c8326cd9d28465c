package arch

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shownBy lists sentences and the tests that show them. Under "# page", a line has the names of tests with
// commas, a colon, and the beginning of a sentence or a table row. The name is - where a sentence promises
// nothing: it defines a word, gives advice, or says where to read on.
const shownBy = "test/arch/testdata/shown.txt"

var promising = []string{"docs/netconf.md", "docs/addresses.md"}

func sentenceRules() []rule {
	page := "-- docs/netconf.md --\n# Title\n\nA pod gets it. Others do\nnot.\n\n| key | meaning |\n|---|---|\n| `x` | y |\n\n" +
		"- `k` (1): It. Is\n  one.\n\n    code. Is not read.\n" +
		"-- x/x_test.go --\npackage x\n\nfunc TestPod(t *testing.T) {}\n-- " + shownBy +
		" --\n# docs/netconf.md\nTestPod: A pod gets\nTestPod: - `k` (1): It. Is one\n"
	return []rule{{
		name:  "unshown-sentence",
		why:   "a page that says something else than the code does is worse than none; write down the test that shows the sentence, in " + shownBy,
		check: unshownSentences,
		bad: []string{
			page,
			page + "-: Others do\nTestNone: | `x` |\n",
			page + "-: Others do\nTestPod: | `x` |\nTestPod: No such sentence\n",
		},
		good: []string{page + "-: Others do not\nTestPod, TestPod: | `x` | y\n"},
	}}
}

// sentences returns a page's sentences, the rows of its tables except the first, and items that begin with code.
func sentences(markdown string) (out []string) {
	var paragraph []string
	flush := func() {
		text := strings.Join(paragraph, " ")
		if strings.HasPrefix(text, "- `") {
			out = append(out, text)
		} else {
			out = append(out, split(text)...)
		}
		paragraph = nil
	}
	lines := strings.Split(markdown, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "- `") {
			flush()
		}
		trimmed := strings.TrimSpace(line)
		row := strings.HasPrefix(line, "|")
		if text := trimmed != "" && !row && !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "<!--"); text {
			paragraph = append(paragraph, trimmed)
			continue
		}
		flush()
		if header := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|---"); row && !header && !strings.HasPrefix(line, "|---") {
			out = append(out, trimmed)
		}
	}
	flush()
	return out
}

// split divides a paragraph after each full stop that something begins behind.
func split(paragraph string) (out []string) {
	begin := 0
	for i := range paragraph {
		rest, ok := strings.CutPrefix(paragraph[i:], ". ")
		if first, _ := utf8.DecodeRuneInString(rest); ok && (unicode.IsUpper(first) || strings.ContainsRune("`[*", first)) {
			out, begin = append(out, paragraph[begin:i+1]), i+2
		}
	}
	if begin < len(paragraph) {
		out = append(out, paragraph[begin:])
	}
	return out
}

func unshownSentences(tr tree) (out []string) {
	tests := map[string]bool{"-": true}
	pages := map[string][]string{}
	var list string
	for _, f := range tr.files {
		switch {
		case strings.HasSuffix(f.path, "_test.go"):
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(f.text, -1) {
				tests[m[1]] = true
			}
		case path.Ext(f.path) == ".md":
			pages[f.path] = sentences(f.text)
		case f.path == shownBy:
			list = f.text
		}
	}
	shown := map[string]map[string]bool{} // by page, how the sentences begin
	current := ""
	for n, line := range strings.Split(list, "\n") {
		if name, ok := strings.CutPrefix(line, "# "); ok {
			current, shown[name] = name, map[string]bool{}
			continue
		}
		names, begins, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(names, ", ") {
			if !tests[name] {
				out = append(out, fmt.Sprintf("%s:%d: there is no test %q", shownBy, n+1, name))
			}
		}
		shown[current][begins] = false
	}
	for _, page := range promising {
		for _, sentence := range pages[page] {
			found := false
			for begins := range shown[page] {
				if strings.HasPrefix(sentence, begins) {
					found, shown[page][begins] = true, true
				}
			}
			if !found {
				out = append(out, fmt.Sprintf("%s: nothing shows: %s", page, sentence))
			}
		}
		for begins, used := range shown[page] {
			if !used {
				out = append(out, fmt.Sprintf("%s: %s has no sentence that begins: %s", shownBy, page, begins))
			}
		}
	}
	return out
}
