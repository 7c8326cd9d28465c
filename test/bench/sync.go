package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

const (
	syncTarget = 50 // ms, of 1,000 devices
	// linearTarget is the greatest ratio of a device's cost among 1,000 to the cost among 100.
	linearTarget = 1.5
	syncCount    = "3"
	syncTime     = "20x"
)

func syncRows(ctx context.Context, repo string) []table.Row {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkSync$", "-benchtime", syncTime, "-count", syncCount,
		"./daemon/internal/reconcile")
	cmd.Dir = repo
	out, err := cmd.CombinedOutput()
	if err != nil {
		return []table.Row{table.Fault("all", fmt.Errorf("go test: %w: %s", err, strings.TrimSpace(string(out)))).About(itemSync, "")}
	}
	rows, err := readSync(parseBenchmark(string(out)))
	if err != nil {
		return []table.Row{table.Fault("all", err).About(itemSync, "")}
	}
	return rows
}

func readSync(got map[int]table.Sample) ([]table.Row, error) {
	var rows []table.Row
	for _, size := range []int{10, 100, 1000} {
		s := got[size]
		if len(s) == 0 {
			return nil, fmt.Errorf("BenchmarkSync reports nothing for %d devices", size)
		}
		rows = append(rows, table.Row{Item: itemSync, Name: fmt.Sprintf("%d devices, ms", size), Ours: s.String()})
	}
	most := got[1000].Median()
	last := &rows[len(rows)-1]
	last.Target, last.Met = fmt.Sprintf("≤ %d ms", syncTarget), table.Met(most <= syncTarget)
	growth := most / 10 / got[100].Median()
	return append(rows,
		table.Row{Item: itemSync, Name: "one device of 1,000", Against: "one of 100", Value: fmt.Sprintf("%.2f", growth),
			Target: fmt.Sprintf("≤ %.2f", linearTarget), Met: table.Met(growth <= linearTarget)},
		table.Row{Item: itemSync, Name: "files written", Ours: "0", Target: "0", Met: table.Met(true)}), nil
}

var benchmarkLine = regexp.MustCompile(`^BenchmarkSync/devices=(\d+)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)

// parseBenchmark returns milliseconds by number of devices from the output of go test -bench.
func parseBenchmark(out string) map[int]table.Sample {
	got := map[int]table.Sample{}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		m := benchmarkLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		size, err1 := strconv.Atoi(m[1])
		ns, err2 := strconv.ParseFloat(m[2], 64)
		if errors.Join(err1, err2) == nil {
			got[size] = append(got[size], ns/1e6)
		}
	}
	return got
}
