package show

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const gap = 2

// floor is the narrowest column, in characters.
const floor = 4

type column struct {
	head string
	// least is how narrow the column may become before those without a least give way too.
	least int
	// short makes a cell of a width; nil cuts out its middle.
	short func(cell string, width int) string
	// cheap is the width down to which short loses little of a cell. Such columns give way before all others; nil is for the others.
	cheap func(cell string) int
	// wide: it is in the wide view only.
	wide bool
	// optional: it is left out if it has no value at all.
	optional bool
}

// table is columns and the cells of its rows; an empty cell is printed as "-".
type table struct {
	columns []column
	rows    [][]string
}

func (t *table) add(cells ...string) {
	for i, c := range cells {
		cells[i] = cmp.Or(clean(c), "-")
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(out io.Writer, wide bool) error {
	var b strings.Builder
	t.render(&b, wide)
	_, err := io.WriteString(out, b.String())
	return err
}

func (t *table) render(b *strings.Builder, wide bool) {
	t.drop()
	widths := t.natural()
	if !wide {
		t.fit(widths)
	}
	heads := make([]string, len(t.columns))
	for i, c := range t.columns {
		heads[i] = c.head
	}
	for _, row := range append([][]string{heads}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			if t.columns[i].wide && !wide {
				continue
			}
			if length(cell) > widths[i] {
				short := t.columns[i].short
				if short == nil {
					short = middle
				}
				cell = short(cell, widths[i])
			}
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-length(cell)+gap))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
}

// drop leaves out the optional columns without a value.
func (t *table) drop() {
	for i := len(t.columns) - 1; i >= 0; i-- {
		if !t.columns[i].optional || slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "-" }) {
			continue
		}
		t.columns = slices.Delete(t.columns, i, i+1)
		for n := range t.rows {
			t.rows[n] = slices.Delete(t.rows[n], i, i+1)
		}
	}
}

// natural are the widths with which no cell is cut.
func (t *table) natural() []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = length(c.head)
		for _, row := range t.rows {
			widths[i] = max(widths[i], length(row[i]))
		}
	}
	return widths
}

// fit narrows the columns of the default view until a line has Columns characters: first
// columns that lose little, then columns with a least, then all. It takes the widest first.
func (t *table) fit(widths []int) {
	for _, least := range []func(int, column) int{t.cheapest, given, last} {
		for {
			total, widest := -gap, -1
			for i, c := range t.columns {
				if c.wide {
					continue
				}
				total += widths[i] + gap
				if widths[i] > least(i, c) && (widest < 0 || widths[i] > widths[widest]) {
					widest = i
				}
			}
			if total <= Columns {
				return
			}
			if widest < 0 {
				break
			}
			widths[widest]--
		}
	}
}

// never is wider than any column.
const never = 1 << 30

func (t *table) cheapest(i int, c column) int {
	if c.cheap == nil {
		return never
	}
	least := max(c.least, length(c.head))
	for _, row := range t.rows {
		least = max(least, c.cheap(row[i]))
	}
	return least
}

func given(_ int, c column) int {
	if c.least == 0 {
		return never
	}
	return max(c.least, length(c.head))
}

func last(int, column) int { return floor }

func length(s string) int { return utf8.RuneCountInString(s) }

// middle cuts the middle out of s, so that width characters are left.
func middle(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	tail := (width - 1) / 2
	return string(r[:width-1-tail]) + "…" + string(r[len(r)-tail:])
}

// list leaves out items of a comma-separated list, and says how many.
func list(s string, width int) string {
	items := strings.Split(s, ",")
	for n := len(items) - 1; n > 0; n-- {
		if short := strings.Join(items[:n], ",") + ",+" + strconv.Itoa(len(items)-n); length(short) <= width {
			return short
		}
	}
	return middle(s, width)
}

// firstItem is the width of a list that is cut to its first item.
func firstItem(s string) int {
	first, rest, more := strings.Cut(s, ",")
	if !more {
		return length(first)
	}
	return length(first) + length(",+"+strconv.Itoa(strings.Count(rest, ",")+1))
}

// resource leaves out the prefix of a resource name first.
func resource(s string, width int) string {
	if _, name, ok := strings.Cut(s, "/"); ok && length(name)+2 <= width {
		return "…/" + name
	}
	return middle(s, width)
}

// bareName is the width of a resource name without its prefix.
func bareName(s string) int {
	if _, name, ok := strings.Cut(s, "/"); ok {
		return length("…/" + name)
	}
	return length(s)
}

// clean removes characters that move a terminal's cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// paragraph writes text in lines of at most Columns characters. The first begins with
// first, the others with next. A word that is longer than a line is cut.
func paragraph(b *strings.Builder, first, next, text string) {
	line, begun := first, false
	for _, word := range strings.Fields(text) {
		word = clean(word)
		if begun && length(line)+1+length(word) > Columns {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line, begun = next, false
		}
		if begun {
			line += " "
		}
		begun = true
		for r := []rune(word); len(r) > 0; {
			room := Columns - length(line)
			if len(r) <= room {
				line += string(r)
				break
			}
			line += string(r[:room])
			r = r[room:]
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = next
		}
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}
