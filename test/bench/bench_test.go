package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSample(t *testing.T) {
	for _, tc := range []struct {
		name               string
		in                 sample
		least, median, p90 float64
	}{
		{"empty", nil, 0, 0, 0},
		{"one", sample{3}, 3, 3, 3},
		{"odd, unsorted", sample{5, 1, 3}, 1, 3, 5},
		{"even", sample{4, 1, 2, 3}, 1, 2.5, 4},
		{"outlier", sample{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000}, 1, 6, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := []float64{tc.in.quantile(0), tc.in.median(), tc.in.quantile(0.9)}
			if diff := cmp.Diff([]float64{tc.least, tc.median, tc.p90}, got); diff != "" {
				t.Errorf("least, median, p90 (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRows(t *testing.T) {
	for _, tc := range []struct {
		name       string
		got        row
		value, met string
	}{
		{"on the limit", ratio("", sample{3}, sample{5}, 0.6), "0.60", "yes"},
		{"judged before it is rounded", ratio("", sample{0.6001}, sample{1}, 0.6), "0.60", "no"},
		{"without a target", ratio("", sample{3}, sample{2}, 0), "1.50", ""},
		{"nothing to compare with", ratio("", sample{3}, nil, 1), "not measured", ""},
		{"difference", difference("", sample{3}, sample{1.5}, 1), "+1.50 ms", "no"},
		{"negative difference", difference("", sample{1}, sample{1.5}, 1), "-0.50 ms", "yes"},
	} {
		if tc.got.Value != tc.value || tc.got.Met != tc.met {
			t.Errorf("%s: value %q, met %q; want %q, %q", tc.name, tc.got.Value, tc.got.Met, tc.value, tc.met)
		}
	}
}

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
	if diff := cmp.Diff(map[int]sample{10: {1}, 100: {8}, 1000: {60, 40.0000005}}, parsed); diff != "" {
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
