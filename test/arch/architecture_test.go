package arch

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// architecturePage has the picture of the packages: layers from top to bottom, and the
// imports that matter.
const architecturePage = "docs/architecture.md"

func architectureRules() []rule {
	picture := func(lines string) string {
		return "-- " + architecturePage + " --\n```mermaid\nflowchart TB\n" + lines + "```\n"
	}
	two := picture("subgraph top [\"Top\"]\n  a[\"a\"]\nend\nsubgraph bottom [\"Bottom\"]\n  b[\"x/b\"]\nend\na --> b\n")
	return []rule{{
		name:  "architecture-picture",
		why:   "the page is a newcomer's plan of the house: each package is on it, each arrow is an import, and no import climbs",
		check: pictureFaults,
		bad: []string{
			two + imports("pkg/a", module+"/pkg/x/b") + imports("pkg/x/b", "fmt") + imports("pkg/c", "fmt"),
			two + imports("pkg/a", "fmt") + imports("pkg/x/b", "fmt"),
			two + imports("pkg/a", module+"/pkg/x/b") + imports("pkg/x/b", module+"/pkg/a"),
			two + imports("pkg/a", module+"/pkg/x/b") + imports("pkg/x/b", "fmt") + imports("daemon/x/b", "fmt"),
			two + imports("pkg/a", "fmt"),
			imports("pkg/a", "fmt"),
		},
		good: []string{
			two + imports("pkg/a", module+"/pkg/x/b") + imports("pkg/x/b", "fmt") + imports("test/c", "fmt"),
		},
	}}
}

var (
	aSubgraph = regexp.MustCompile(`^subgraph \w+ \["[^"]+"\]$`)
	aBox      = regexp.MustCompile(`^(\w+)\["([^"]+)"\]$`)
	anImport  = regexp.MustCompile(`^(\w+) --> (\w+)$`)
)

// flowchart is a picture of boxes in layers.
type flowchart struct {
	layer  map[string]int    // of a box; 0 is the top
	label  map[string]string // of a box: paths, with <br> between them
	arrows [][2]string
}

// parseFlowchart returns the first line that is none of a flowchart, or "".
func parseFlowchart(body string) (c flowchart, fault string) {
	c = flowchart{layer: map[string]int{}, label: map[string]string{}}
	layer, open := -1, false
	for line := range strings.SplitSeq(body, "\n") {
		text := strings.TrimSpace(line)
		switch box, arrow := aBox.FindStringSubmatch(text), anImport.FindStringSubmatch(text); {
		case aSubgraph.MatchString(text) && !open:
			layer, open = layer+1, true
		case text == "end" && open:
			open = false
		case box != nil && open:
			c.layer[box[1]], c.label[box[1]] = layer, box[2]
		case arrow != nil && !open && c.label[arrow[1]] != "" && c.label[arrow[2]] != "":
			c.arrows = append(c.arrows, [2]string{arrow[1], arrow[2]})
		default:
			return c, line
		}
	}
	if open {
		return c, "no end of a subgraph"
	}
	return c, ""
}

func pictureFaults(tr tree) (out []string) {
	imported := map[string][]string{} // folder -> folders
	for _, f := range tr.goFiles(func(f file) bool { return !f.isTest() }) {
		imported[f.dir()] = append(imported[f.dir()], nil...)
		for _, i := range f.imports() {
			if dir, ours := strings.CutPrefix(i, module+"/"); ours {
				imported[f.dir()] = append(imported[f.dir()], dir)
			}
		}
	}
	c, err := architecture(tr)
	if err != nil {
		return []string{err.Error()}
	}
	box := map[string]string{} // folder -> box
	for _, name := range slices.Sorted(maps.Keys(c.label)) {
		for label := range strings.SplitSeq(c.label[name], "<br>") {
			dirs := slices.DeleteFunc(slices.Collect(maps.Keys(imported)), func(dir string) bool { return !strings.HasSuffix("/"+dir, "/"+label) })
			if _, exact := imported[label]; exact {
				dirs = []string{label}
			}
			if slices.Sort(dirs); len(dirs) != 1 {
				out = append(out, fmt.Sprintf("%s: the label %q stands for %q, and must stand for one package", architecturePage, label, dirs))
				continue
			}
			box[dirs[0]] = name
		}
	}
	drawn := map[[2]string]bool{}
	for _, dir := range slices.Sorted(maps.Keys(imported)) {
		from, there := box[dir]
		if !there {
			out = append(out, fmt.Sprintf("%s: the picture lacks the package %s", architecturePage, dir))
			continue
		}
		for _, other := range imported[dir] {
			to := box[other]
			drawn[[2]string{from, to}] = true
			if c.layer[to] < c.layer[from] {
				out = append(out, fmt.Sprintf("%s imports %s, which stands in a higher layer of %s", dir, other, architecturePage))
			}
		}
	}
	for _, a := range c.arrows {
		if !drawn[a] {
			out = append(out, fmt.Sprintf("%s: the arrow %s --> %s is no import", architecturePage, a[0], a[1]))
		}
	}
	return out
}

// architecture parses the page's first flowchart.
func architecture(tr tree) (flowchart, error) {
	for _, f := range tr.files {
		if f.path != architecturePage {
			continue
		}
		_, rest, found := strings.Cut("\n"+f.text, "\n```mermaid\nflowchart TB\n")
		body, _, closed := strings.Cut(rest, "\n```\n")
		if !found || !closed {
			break
		}
		c, fault := parseFlowchart(body)
		if fault != "" {
			return c, fmt.Errorf("%s: no line of a flowchart: %s", architecturePage, fault)
		}
		return c, nil
	}
	return flowchart{}, fmt.Errorf("%s: no flowchart of the packages", path.Base(architecturePage))
}
