package arch

import (
	goast "go/ast"
	"go/token"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
	"sigs.k8s.io/yaml"
)

type writing struct {
	path      string
	sentences []string
}

// prose returns the pages, the descriptions in the CRDs and the help of the daemon's flags.
func prose(tr tree) (out []writing) {
	for _, f := range tr.files {
		p := writing{path: f.path}
		switch {
		case path.Ext(f.path) == ".md":
			p.sentences = pageSentences(f.text)
		case path.Dir(f.path) == "deploy/crd" && path.Ext(f.path) == ".yaml":
			p.sentences = descriptions(f.text)
		case f.ast != nil && path.Dir(f.path) == "daemon" && !f.isTest():
			p.sentences = flagHelp(f)
		}
		if len(p.sentences) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// pageSentences returns the sentences of a page's headings, paragraphs, items and cells. "`" stands for a span of code.
func pageSentences(markdown string) (out []string) {
	source := []byte(markdown)
	md := goldmark.New(goldmark.WithExtensions(extension.Table))
	// Walk ends with the error of the function, which returns none.
	_ = ast.Walk(md.Parser().Parse(text.NewReader(source)), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n.Kind() {
		case ast.KindParagraph, ast.KindTextBlock, ast.KindHeading, extast.KindTableCell:
			var b strings.Builder
			inline(&b, n, source)
			for block := range strings.SplitSeq(b.String(), "\n") {
				out = append(out, cut(block)...)
			}
			return ast.WalkSkipChildren, nil
		}
		return ast.WalkContinue, nil
	})
	return out
}

func firstParagraph(markdown string) string {
	source := []byte(markdown)
	for n := goldmark.DefaultParser().Parse(text.NewReader(source)).FirstChild(); n != nil; n = n.NextSibling() {
		var b strings.Builder
		if inline(&b, n, source); n.Kind() == ast.KindParagraph && words(b.String()) > 1 {
			return b.String()
		}
	}
	return ""
}

// inline writes the words within n, with a line break for each HTML tag.
func inline(b *strings.Builder, n ast.Node, source []byte) {
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		switch c := c.(type) {
		case *ast.Text:
			b.Write(c.Segment.Value(source))
			if c.SoftLineBreak() || c.HardLineBreak() {
				b.WriteByte(' ')
			}
		case *ast.CodeSpan, *ast.AutoLink:
			b.WriteByte('`')
		case *ast.RawHTML:
			b.WriteByte('\n')
		default:
			inline(b, c, source)
		}
	}
}

// cut divides a text after each mark that ends a sentence.
func cut(s string) (out []string) {
	for {
		end := endOfSentence.FindStringIndex(s)
		if end == nil {
			break
		}
		out, s = append(out, strings.TrimSpace(s[:end[1]])), s[end[1]:]
	}
	if s = strings.TrimSpace(s); s != "" {
		out = append(out, s)
	}
	return out
}

var endOfSentence = regexp.MustCompile(`[.?!]["”)]*\s+`)

// words counts the words of a sentence.
func words(sentence string) (n int) {
	for word := range strings.FieldsSeq(sentence) {
		if strings.ContainsFunc(word, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '`' }) {
			n++
		}
	}
	return n
}

// plain returns the sentences of plain text; an empty line or the next item ends a paragraph.
func plain(s string) (out []string) {
	for block := range strings.SplitSeq(strings.ReplaceAll(s, "\n- ", "\n\n"), "\n\n") {
		out = append(out, cut(strings.Join(strings.Fields(block), " "))...)
	}
	return out
}

// ofKubernetes begins the descriptions that controller-gen copies from Kubernetes.
var ofKubernetes = []string{"APIVersion defines", "Kind is a string value", "Condition contains", "lastTransitionTime is",
	"observedGeneration represents the .metadata",
	"message is a human readable", "reason contains a programmatic", "status of the condition", "type of condition in"}

func descriptions(crd string) (out []string) {
	var collect func(any)
	collect = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				collect(e)
			}
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				s, ok := v[key].(string)
				if key == "description" && ok && !slices.ContainsFunc(ofKubernetes, func(begin string) bool { return strings.HasPrefix(s, begin) }) {
					out = append(out, plain(s)...)
				}
				collect(v[key])
			}
		}
	}
	var parsed any
	if err := yaml.Unmarshal([]byte(crd), &parsed); err != nil {
		return []string{err.Error()} // other tests apply the file
	}
	collect(parsed)
	return out
}

// flagHelp returns the sentences of the last arguments of StringVar, BoolVarP and so on. "`" stands for a value.
func flagHelp(f file) (out []string) {
	goast.Inspect(f.ast, func(n goast.Node) bool {
		call, ok := n.(*goast.CallExpr)
		if !ok || len(call.Args) < 4 {
			return true
		}
		if sel, ok := call.Fun.(*goast.SelectorExpr); ok && strings.HasSuffix(strings.TrimSuffix(sel.Sel.Name, "P"), "Var") {
			out = append(out, plain(literals(call.Args[len(call.Args)-1]))...)
		}
		return true
	})
	return out
}

// messageSentences returns the sentences of the strings of four words and more.
func messageSentences(f file) (out []string) {
	goast.Inspect(f.ast, func(n goast.Node) bool {
		if lit, ok := n.(*goast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil && words(s) > 3 {
				out = append(out, plain(s)...)
			}
		}
		return true
	})
	return out
}

func literals(e goast.Expr) string {
	switch e := e.(type) {
	case *goast.BinaryExpr:
		return literals(e.X) + literals(e.Y)
	case *goast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil {
			return s
		}
	}
	return "`"
}
