package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// row is one line of the table, all of it text.
type row struct {
	Name, Ours, Other string
	// Value is the ratio, or what else Target is about.
	Value, Target string
	// Met is "yes" or "no", "" without a target.
	Met string
	// Fault says why the row could not be measured; "" when it was.
	Fault string
}

// ratio compares two samples by their medians. A limit of 0 is no target.
func ratio(name string, ours, other sample, limit float64) row {
	r := row{Name: name, Ours: ours.String(), Other: other.String()}
	if other.median() == 0 {
		return fault(name, fmt.Errorf("no samples to compare with"))
	}
	v := ours.median() / other.median()
	r.Value = fmt.Sprintf("%.2f", v)
	if limit != 0 {
		r.Target, r.Met = fmt.Sprintf("≤ %.2f", limit), met(v <= limit)
	}
	return r
}

// difference compares two samples of milliseconds by the difference of their
// medians. A limit of 0 is no target.
func difference(name string, ours, other sample, limit float64) row {
	d := ours.median() - other.median()
	r := row{Name: name, Ours: ours.String(), Other: other.String(), Value: fmt.Sprintf("%+.2f ms", d)}
	if limit != 0 {
		r.Target, r.Met = fmt.Sprintf("≤ %+.2f ms", limit), met(d <= limit)
	}
	return r
}

func fault(name string, err error) row {
	return row{Name: name, Value: "not measured", Fault: err.Error()}
}

func met(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

// printTable writes the rows as a Markdown table that is aligned for reading as
// plain text.
func printTable(w io.Writer, rows []row) error {
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
