package makefile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// unquoted lists a script's expansions that the shell splits at blanks, except where it must (for … in).
func unquoted(script string) []string {
	l := lexer{text: script, state: []byte{command0}}
	for l.pos < len(l.text) {
		l.step()
	}
	return l.found
}

const (
	command0   = 'c' // words of a command
	single     = '\''
	double     = '"'
	arithmetic = '+'
	braces     = '{' // of ${…}
)

type lexer struct {
	text  string
	pos   int
	state []byte
	found []string
}

func (l *lexer) push(s byte)  { l.state = append(l.state, s) }
func (l *lexer) pop()         { l.state = l.state[:max(1, len(l.state)-1)] }
func (l *lexer) in() byte     { return l.state[len(l.state)-1] }
func (l *lexer) splits() bool { return l.in() == command0 }

func (l *lexer) step() {
	rest := l.text[l.pos:]
	skip := 1
	switch in := l.in(); {
	case in == single:
		if rest[0] == single {
			l.pop()
		}
	case rest[0] == '\\':
		skip = 2
	case in == double && rest[0] == double, in == braces && rest[0] == '}':
		l.pop()
	case in == arithmetic && strings.HasPrefix(rest, "))"):
		l.pop()
		skip = 2
	case rest[0] == single && in != double && in != braces, rest[0] == double:
		l.push(rest[0])
	case strings.HasPrefix(rest, "$(("):
		l.push(arithmetic)
		skip = 3
	case rest[0] == '$' && len(rest) > 1:
		skip = l.expansion(rest)
	case in == command0 && rest[0] == '(':
		l.push(command0)
	case in == command0 && rest[0] == ')':
		l.pop()
	case in == command0 && rest[0] == '#' && (l.pos == 0 || strings.ContainsRune(" \t\n;", rune(l.text[l.pos-1]))):
		skip = strings.IndexByte(rest+"\n", '\n')
	}
	l.pos += skip
}

var variable = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*|[0-9@*])`)

// numbers are expansions that never hold a blank.
var numbers = regexp.MustCompile(`^\$(\{#|[?#$!])`)

func (l *lexer) expansion(rest string) int {
	var length int
	var next byte
	switch {
	case numbers.MatchString(rest):
		return 2
	case rest[1] == '(':
		length, next = 2, command0
	case rest[1] == '{':
		length, next = 2, braces
	default:
		length = len(variable.FindString(rest))
	}
	if length == 0 {
		return 1
	}
	if l.splits() && !harmless.MatchString(l.text[strings.LastIndexByte(l.text[:l.pos], '\n')+1:l.pos]) {
		line, _, _ := strings.Cut(rest, "\n")
		l.found = append(l.found, fmt.Sprintf("%.40s", line))
	}
	if next != 0 {
		l.push(next)
	}
	return length
}

// assignment, or the word of case, or the list of for.
var harmless = regexp.MustCompile(`((^|[\s;(])[A-Za-z_][A-Za-z0-9_]*\+?=[^\s;]*|(^|[\s;(])case |(^|[\s;(])for [a-z]+ in ([^;\n]* )?)$`)

// recipes are a makefile's shell lines: $$ is $. Only CURDIR and GO may hold a blank.
func recipes(text string) []string {
	var out []string
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if code, ok := strings.CutPrefix(line, "\t"); ok {
			code = regexp.MustCompile(`\$\((CURDIR|GO|PWD|HOME|TMPDIR)\)`).ReplaceAllString(code, "$$$${$1}")
			code = strings.ReplaceAll(strings.TrimLeft(code, "@-"), "$$", "\x00")
			for reference := regexp.MustCompile(`\$([@<^*]|\([^()$]*\))`); reference.MatchString(code); { // the inner ones first
				code = reference.ReplaceAllString(code, "word")
			}
			out = append(out, strings.ReplaceAll(code, "\x00", "$"))
		}
	}
	return out
}

// toolList is a list of packages, which is meant to be split.
var toolList = regexp.MustCompile(`^\$\(word -C \S+ list tool`)

// definitions of make that put a path into a recipe without quotes.
var bare = regexp.MustCompile(`(^|[^"])\$[({](CURDIR|GO)[)}]|\$[({](CURDIR|GO)[)}]([^"]|$)`)

func faults(name, text string) []string {
	scripts := []string{text}
	var found []string
	if filepath.Base(name) == "Makefile" || filepath.Ext(name) == ".mk" {
		scripts = recipes(text)
		for line := range strings.SplitSeq(text, "\n") {
			if bare.MatchString(line) {
				found = append(found, fmt.Sprintf("%s: not in double quotes: %s", name, line))
			}
		}
	}
	for _, s := range scripts {
		for _, f := range unquoted(s) {
			if !toolList.MatchString(f) {
				found = append(found, fmt.Sprintf("%s: not in double quotes: %s", name, f))
			}
		}
	}
	return found
}

// TestQuoted checks the quotes of every makefile and script: the path may hold a blank, and `rm -rf` would split it.
func TestQuoted(t *testing.T) {
	root := repo(t)
	var seen []string
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path) // both are absolute
		if err != nil || d.IsDir() {
			if slices.Contains([]string{".git", "bin", ".cache"}, rel) {
				return filepath.SkipDir
			}
			return nil // another test's temporary file
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		text := string(data)
		if name := d.Name(); name == "Makefile" || filepath.Ext(name) == ".mk" || regexp.MustCompile(`^#!.*\b(ba)?sh\n`).MatchString(text) {
			seen = append(seen, rel)
			for _, f := range faults(rel, text) {
				t.Error(f)
			}
		}
		return nil
	}))
	for _, want := range []string{"Makefile", ".ci/run", "test/prereq"} {
		if !slices.Contains(seen, want) {
			t.Errorf("%s was not read", want)
		}
	}
}

func TestQuotedCanFail(t *testing.T) {
	for text, want := range map[string]int{
		"rm -rf $dir/x": 1, `rm -rf "$dir"/x`: 0, "rm -rf '$dir'": 0, "cd ${dir%/*}": 1, `cd "${dir%/*}"`: 0, "x=$dir": 0, "local x=$dir y=$z": 0,
		"echo a=$(pwd)b $x": 1,
		"cp $(pwd)/a b":     1, `cp "$(pwd)"/a b`: 0, `cp "$(dirname $0)" b`: 1, "for f in $list a $more; do": 0, "case $x in": 0, "echo $? $# $(($x + 1))": 0,
		"# $x":               0,
		`echo "${a:-$b}" $c`: 1, `echo \$x`: 0, "if ! x=$(a $b)": 1,
	} {
		if got := faults("x", text); len(got) != want {
			t.Errorf("%s: %q, want %d", text, got, want)
		}
	}
	for text, want := range map[string]int{
		"\trm -rf $(CURDIR)/bin": 2, "\trm -rf \"$(CURDIR)/bin\"": 1, "\trm -rf \"$(CURDIR)\"/bin": 0, "BIN := $(CURDIR)/bin": 1, "HERE := \"$(CURDIR)\"": 0,
		"\t$(GO) test":    2,
		"\trm -rf $(BIN)": 0, "\trm -rf $(addprefix $(BIN)/,$(word 1,$(X) y))": 0, "\trm -rf $$dir": 1, "\trm -rf \"$$dir\"": 0,
		"\tgo build $$($(go) -C test/tools list tool | grep x)": 0, "\tfor p in $(LIST); do a; \\\n\t  b $$p; done": 1,
	} {
		if got := faults("Makefile", text); len(got) != want {
			t.Errorf("%s: %q, want %d", text, got, want)
		}
	}
}
