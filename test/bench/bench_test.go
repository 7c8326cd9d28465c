package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

func TestParsePeak(t *testing.T) {
	got, err := parsePeak("5120 1536\n")
	if err != nil || got != 5 {
		t.Errorf("parsePeak = %v, %v; want 5 MiB", got, err)
	}
	for _, bad := range []string{"", "5120", "x 1", "1536 1536\n"} {
		if got, err := parsePeak(bad); err == nil {
			t.Errorf("parsePeak(%q) = %v; want an error", bad, got)
		}
	}
}

func TestSyncRows(t *testing.T) {
	const out = `goos: linux
BenchmarkSync/devices=10-2         	      20	   1000000 ns/op
BenchmarkSync/devices=100-2        	      20	   8000000 ns/op
BenchmarkSync/devices=1000-2       	      20	  60000000 ns/op
BenchmarkSync/devices=1000-2       	      20	  40000000.5 ns/op	  12 B/op
PASS
`
	parsed := parseBenchmark(out)
	if diff := cmp.Diff(map[int]table.Sample{10: {1}, 100: {8}, 1000: {60, 40.0000005}}, parsed); diff != "" {
		t.Fatalf("parseBenchmark (-want +got):\n%s", diff)
	}
	rows, err := readSync("Sync", parsed)
	if err != nil {
		t.Fatal(err)
	}
	var verdicts []string
	for _, r := range rows {
		verdicts = append(verdicts, r.Met)
	}
	if diff := cmp.Diff([]string{"", "", "no", "yes", "yes"}, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if _, err := readSync("Sync", parseBenchmark("PASS\n")); err == nil || !strings.Contains(err.Error(), "10 devices") {
		t.Errorf("without results: %v; want an error that names the size", err)
	}
}
