package main

import (
	"os"
	"path/filepath"
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
	rows, err := readSync(parsed)
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
	if _, err := readSync(parseBenchmark("PASS\n")); err == nil || !strings.Contains(err.Error(), "10 devices") {
		t.Errorf("without results: %v; want an error that names the size", err)
	}
}

// TestComparisonRows: the 99th percentile of ADD and DEL together is taken pair by pair.
func TestComparisonRows(t *testing.T) {
	all := []comparison{{itemOwn, own, reference, 0.5, 0.5, true}, {itemFloor, own, floor, 0, 0, false}}
	if diff := cmp.Diff([]string{"exclusive, eni-ipam", "host-device, host-local", "the floor"}, names(waysOf(all))); diff != "" {
		t.Errorf("ways (-want +got):\n%s", diff)
	}
	got := map[way]timed{
		own:       {add: table.Sample{1, 3}, del: table.Sample{4, 2}},
		reference: {add: table.Sample{4, 4}, del: table.Sample{5, 5}},
		floor:     {add: table.Sample{2, 2}, del: table.Sample{2, 2}},
	}
	var rows []table.Row
	for _, c := range all {
		rows = append(rows, c.rows(c.item, got)...)
	}
	const theirs = "host-device, host-local"
	want := []table.Row{
		{Item: itemOwn, Name: "exclusive ADD, eni-ipam", Against: theirs, Ours: "2.00 (1.00 … 3.00)", Other: "4.00 (4.00 … 4.00)", OursMedian: 2, OtherMedian: 4,
			Value: "0.50"},
		{Item: itemOwn, Name: "exclusive DEL, eni-ipam", Against: theirs, Ours: "3.00 (2.00 … 4.00)", Other: "5.00 (5.00 … 5.00)", OursMedian: 3, OtherMedian: 5,
			Value: "0.60"},
		{
			Item: itemOwn, Name: "exclusive ADD + DEL, eni-ipam", Against: theirs, Ours: "5.00 (5.00 … 5.00)", Other: "9.00 (9.00 … 9.00)", OursMedian: 5,
			OtherMedian: 9,
			Value:       "0.56", Target: "≤ 0.50", Met: "no",
		},
		{Item: itemFloor, Name: "exclusive ADD + DEL, eni-ipam", Against: "the floor", Ours: "5.00 (5.00 … 5.00)", Other: "4.00 (4.00 … 4.00)", OursMedian: 5,
			OtherMedian: 4, Value: "1.25"},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func names(ways []way) (all []string) {
	for _, w := range ways {
		all = append(all, w.String())
	}
	return all
}

func TestReadStrace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "strace.out")
	text := `7  execve("/bin/multi-eni", ["multi-eni"], 0x7ffe /* 5 vars */) = 0
7  clone(child_stack=0xc000, flags=CLONE_VM) = 8
7  sendto(6, [{nlmsg_len=52, nlmsg_type=RTM_NEWLINK, nlmsg_flags=NLM_F_REQUEST}, {ifi_family=AF_UNSPEC, ` +
		`ifi_index=2, ifi_flags=0, ifi_change=0}, [{nla_len=8, nla_type=IFLA_NET_NS_FD}, 9]], 52, 0, {sa_family=AF_NETLINK}, 12) = 52
7  sendto(6, [{nlmsg_len=52, nlmsg_type=0x10 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST, nlmsg_seq=1}, ` +
		`"\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x1c\x00\x0d\x00\x00\x00"], 52, 0, {sa_family=AF_NETLINK}, 12 <unfinished ...>
7  <... sendto resumed>) = 52
7  sendto(6, [{nlmsg_len=32, nlmsg_type=0x10 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST, nlmsg_seq=2}, ` +
		`"\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00"], 32, 0, {sa_family=AF_NETLINK}, 12) = 32
7  sendto(6, [{nlmsg_len=32, nlmsg_type=0x10 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST, nlmsg_seq=2}, ` +
		`"\x00\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"], 32, 0, {sa_family=AF_NETLINK}, 12) = 32
8  fdatasync(3) = 0
8  sendto(9, "hello", 5, 0, NULL, 0) = 5
8  unshare(CLONE_NEWNET) = 0
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readStrace(file)
	if want := (counted{calls: 9, syncs: 1, netlink: 4, waits: 4, execs: 1, threads: 1}); got != want || err != nil {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}
