package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Print writes the conditions and the tables.
func (r Report) Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s.\nTimes are in ms: median (least … 99th percentile). One at a time: %d pairs of ADD and DEL. Side by side: %d.\n"+
		"A ratio divides medians. (k) counts: system calls / syncs / netlink messages / waits for RCU / programs / threads and processes.\n\n",
		r.Machine, r.Pairs, r.SideBySide)
	if err != nil {
		return err
	}
	return Print(w, r.Rows)
}

// WriteFile writes the report as JSON that people can read and compare.
func (r Report) WriteFile(name string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("encode the figures: %w", err)
	}
	return os.WriteFile(name, b.Bytes(), 0o644)
}

// ReadFile reads a report that WriteFile has written.
func ReadFile(name string) (Report, error) {
	var r Report
	data, err := os.ReadFile(name)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read figures %s: %w", name, err)
	}
	return r, nil
}
