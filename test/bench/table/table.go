// Package table prints side-by-side measurements, as Markdown tables that are aligned for reading as plain text.
package table

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Report is one run of the benchmark, as -json writes it and docs/performance.json keeps one.
type Report struct {
	// Machine is the processor, its cores, and the versions of Linux and Go.
	Machine string
	// Pairs is how many pairs of ADD and DEL are compared one at a time, SideBySide how many with eight pods at once.
	Pairs, SideBySide int
	Rows              []Row
}

// Row is one line of a table, as text.
type Row struct {
	// Item is the heading of the table; "" is none. Rows of one item follow each other.
	Item string `json:",omitempty"`
	Name string
	// Against names the other contender, "" where Name or Item does.
	Against     string `json:",omitempty"`
	Ours, Other string `json:",omitempty"`
	// OursMedian and OtherMedian are the medians in Ours and Other, to two decimals; 0 without samples.
	OursMedian, OtherMedian float64 `json:",omitempty"`
	// Value is the ratio, or another value to which Target applies.
	Value, Target string `json:",omitempty"`
	// Met is "yes" or "no", "" without a target.
	Met string `json:",omitempty"`
	// Fault is the reason why the row could not be measured, or "".
	Fault string `json:",omitempty"`
}

// About returns the row below the heading item, against another contender.
func (r Row) About(item, against string) Row {
	r.Item, r.Against = item, against
	return r
}

func compared(name string, ours, other Sample) Row {
	return Row{Name: name, Ours: ours.String(), Other: other.String(), OursMedian: cents(ours.Median()), OtherMedian: cents(other.Median())}
}

func cents(v float64) float64 { return math.Round(v*100) / 100 }

// Ratio compares two samples by their medians. A limit of 0 is no target.
func Ratio(name string, ours, other Sample, limit float64) Row {
	if other.Median() == 0 {
		return Fault(name, fmt.Errorf("no samples to compare with"))
	}
	r := compared(name, ours, other)
	v := ours.Median() / other.Median()
	r.Value = fmt.Sprintf("%.2f", v)
	if limit != 0 {
		r.Target, r.Met = fmt.Sprintf("≤ %.2f", limit), Met(v <= limit)
	}
	return r
}

// Difference compares two samples of milliseconds by the difference of their medians. A limit of 0 is no target.
func Difference(name string, ours, other Sample, limit float64) Row {
	r := compared(name, ours, other)
	d := ours.Median() - other.Median()
	r.Value = fmt.Sprintf("%+.2f ms", d)
	if limit != 0 {
		r.Target, r.Met = fmt.Sprintf("≤ %+.2f ms", limit), Met(d <= limit)
	}
	return r
}

// Fault is the row of a failed measurement.
func Fault(name string, err error) Row {
	return Row{Name: name, Value: "not measured", Fault: err.Error()}
}

// Met is "yes" or "no", for rows.
func Met(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// Print writes a heading and a table for each item.
func Print(w io.Writer, rows []Row) error {
	for begin := 0; begin < len(rows); {
		item := rows[begin].Item
		end := begin
		for end < len(rows) && rows[end].Item == item {
			end++
		}
		if item != "" {
			before := ""
			if begin > 0 {
				before = "\n"
			}
			if _, err := fmt.Fprintf(w, "%s### %s\n", before, item); err != nil {
				return err
			}
		}
		if err := printTable(w, rows[begin:end]); err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// printTable leaves out the columns that no row fills, but for ours and other.
func printTable(w io.Writer, rows []Row) error {
	lines := [][]string{{"", "against", "ours", "other", "ratio", "target", "met?"}}
	for _, r := range rows {
		lines = append(lines, []string{r.Name, r.Against, r.Ours, r.Other, r.Value, r.Target, r.Met})
	}
	for _, i := range []int{6, 5, 4, 1} {
		if slices.ContainsFunc(lines[1:], func(l []string) bool { return l[i] != "" }) {
			continue
		}
		for n, l := range lines {
			lines[n] = slices.Delete(l, i, i+1)
		}
	}
	widths := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, cell := range l {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	rule := make([]string, len(widths))
	for i, n := range widths {
		rule[i] = strings.Repeat("-", n)
	}
	lines = slices.Insert(lines, 1, rule)
	for _, l := range lines {
		for i, cell := range l {
			l[i] = cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		}
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(l, " | ")); err != nil {
			return err
		}
	}
	return nil
}
