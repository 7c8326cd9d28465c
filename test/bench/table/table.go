// Package table shows what was measured side by side, as a Markdown table that is
// aligned for reading as plain text.
package table

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Row is one line of the table, all of it text.
type Row struct {
	Name, Ours, Other string
	// Value is the ratio, or what else Target is about.
	Value, Target string
	// Met is "yes" or "no", "" without a target.
	Met string
	// Fault says why the row could not be measured; "" when it was.
	Fault string
}

// Ratio compares two samples by their medians. A limit of 0 is no target.
func Ratio(name string, ours, other Sample, limit float64) Row {
	r := Row{Name: name, Ours: ours.String(), Other: other.String()}
	if other.Median() == 0 {
		return Fault(name, fmt.Errorf("no samples to compare with"))
	}
	v := ours.Median() / other.Median()
	r.Value = fmt.Sprintf("%.2f", v)
	if limit != 0 {
		r.Target, r.Met = fmt.Sprintf("≤ %.2f", limit), Met(v <= limit)
	}
	return r
}

// Difference compares two samples of milliseconds by the difference of their
// medians. A limit of 0 is no target.
func Difference(name string, ours, other Sample, limit float64) Row {
	d := ours.Median() - other.Median()
	r := Row{Name: name, Ours: ours.String(), Other: other.String(), Value: fmt.Sprintf("%+.2f ms", d)}
	if limit != 0 {
		r.Target, r.Met = fmt.Sprintf("≤ %+.2f ms", limit), Met(d <= limit)
	}
	return r
}

// Fault is the row of what could not be measured.
func Fault(name string, err error) Row {
	return Row{Name: name, Value: "not measured", Fault: err.Error()}
}

// Met says whether a target is met, as rows have it.
func Met(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// Print writes the rows.
func Print(w io.Writer, rows []Row) error {
	lines := [][]string{{"", "ours", "other", "ratio", "target", "met?"}}
	for _, r := range rows {
		lines = append(lines, []string{r.Name, r.Ours, r.Other, r.Value, r.Target, r.Met})
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
	lines = append(lines[:1], append([][]string{rule}, lines[1:]...)...)
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
