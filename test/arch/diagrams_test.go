package arch

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

func diagramRules() []rule {
	const sequence = "-- docs/x.md --\n```mermaid\nsequenceDiagram\n    participant A as x\n    participant B\n"
	const flow = "-- docs/x.md --\n```mermaid\nflowchart LR\n    a[\"x\"] --> b[\"y\"]\n"
	const states = "-- docs/x.md --\n```mermaid\nstateDiagram-v2\n    [*] --> a: begins\n"
	return []rule{{
		name:  "broken-diagram",
		why:   "the forge shows an error in place of a diagram that it cannot read, and no build draws it",
		check: brokenDiagrams,
		bad: []string{
			sequence + "    A->>C: x\n```\n",
			sequence + "    A->>B\n```\n",
			sequence + "    A->>B: x; y\n```\n",
			sequence + "    alt x\n        A->>B: x\n```\n",
			sequence + "    Note over A,C: x\n```\n",
			states + "    a -> [*]: x\n```\n",
			flow + "    a --> c\n```\n",
			flow + "    a -> b\n```\n",
			flow + "    b[x] --> a\n```\n",
			states + "    a --> [*]: x\n\n",
			"-- docs/x.md --\n```mermaid\nsequence\n```\n",
			"-- docs/x.md --\n```mermaid\nflowchart TB\n    a[\"x\"]\n```\n",
			"-- docs/x.md --\n```mermaid\nflowchart TB\n    subgraph s [\"x\"]\n```\n",
		},
		good: []string{
			sequence + "    A->>B: x\n    alt x\n        A->>A: y\n    else z\n        B-->>A: z\n    end\n    Note over A,B: x\n```\n",
			states + "    a --> [*]: ends\n```\n",
			flow + "    b --> c[\"y: z\"]\n```\n",
		},
	}}
}

var (
	aParticipant = regexp.MustCompile(`^participant (\w+)( as .+)?$`)
	aMessage     = regexp.MustCompile(`^(\w+)-?->>(\w+): [^;#]+$`)
	aNote        = regexp.MustCompile(`^Note over (\w+)(?:,(\w+))?: [^;#]+$`)
	aBlock       = regexp.MustCompile(`^(alt|opt|loop) \S`)
	anElse       = regexp.MustCompile(`^else \S`)
	anArrow      = regexp.MustCompile(`^(\w+)(\["[^"]+"\])? --> (\w+)(\["[^"]+"\])?$`)
	aTransition  = regexp.MustCompile(`^(\[\*\]|\w+) --> (\[\*\]|\w+): [^:;#]+$`)
)

// brokenDiagrams knows the part of Mermaid that the documents use, and no more.
func brokenDiagrams(tr tree) (out []string) {
	for _, f := range tr.files {
		if path.Ext(f.path) != ".md" {
			continue
		}
		for _, part := range strings.Split("\n"+f.text, "\n```mermaid\n")[1:] {
			diagram, _, closed := strings.Cut(part, "\n```\n")
			kind, body, _ := strings.Cut(diagram, "\n")
			fault := ""
			switch {
			case !closed:
				fault = "no end of the diagram"
			case kind == "sequenceDiagram":
				fault = brokenSequence(body)
			case kind == "flowchart TB":
				_, fault = parseFlowchart(body)
			case strings.HasPrefix(kind, "flowchart "):
				fault = brokenFlow(body)
			case kind == "stateDiagram-v2":
				for line := range strings.SplitSeq(body, "\n") {
					if !aTransition.MatchString(strings.TrimSpace(line)) {
						fault = line
					}
				}
			default:
				fault = "kind " + kind
			}
			if fault != "" {
				out = append(out, fmt.Sprintf("%s: %s: %s", f.path, kind, fault))
			}
		}
	}
	return out
}

// brokenFlow returns the first line that is no arrow, or the first node without a text, or "".
func brokenFlow(body string) string {
	texts, nodes := map[string]bool{}, []string{}
	for line := range strings.SplitSeq(body, "\n") {
		m := anArrow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			return line
		}
		nodes = append(nodes, m[1], m[3])
		texts[m[1]] = texts[m[1]] || m[2] != ""
		texts[m[3]] = texts[m[3]] || m[4] != ""
	}
	for _, n := range nodes {
		if !texts[n] {
			return "no text of node " + n
		}
	}
	return ""
}

// brokenSequence returns the first line that is none of a sequence diagram, or "".
func brokenSequence(body string) string {
	known, depth := map[string]bool{"": true}, 0
	for line := range strings.SplitSeq(body, "\n") {
		text := strings.TrimSpace(line)
		var names []string
		switch {
		case aParticipant.MatchString(text):
			known[aParticipant.FindStringSubmatch(text)[1]] = true
		case aMessage.MatchString(text):
			names = aMessage.FindStringSubmatch(text)[1:]
		case aNote.MatchString(text):
			names = aNote.FindStringSubmatch(text)[1:]
		case aBlock.MatchString(text):
			depth++
		case text == "end" && depth > 0:
			depth--
		case anElse.MatchString(text) && depth > 0:
		default:
			return line
		}
		for _, name := range names {
			if !known[name] {
				return fmt.Sprintf("no participant %s: %s", name, text)
			}
		}
	}
	if depth > 0 {
		return "no end of a block"
	}
	return ""
}
