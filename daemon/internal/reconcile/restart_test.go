package reconcile

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRestartGate plays what is seen at which second, asks each time as the
// loop would, and compares when a restart was due.
func TestRestartGate(t *testing.T) {
	type sight struct {
		at   int // seconds
		hash string
	}
	tests := []struct {
		name  string
		seen  []sight
		fails int // of the first restarts
		until int
		want  []int
	}{
		{name: "nothing changes", seen: []sight{{0, ""}}, until: 60},
		{name: "one change settles", seen: []sight{{5, "a"}}, until: 60, want: []int{7}},
		{name: "each change puts it off", seen: []sight{{5, "a"}, {6, "b"}, {7, "c"}}, until: 60, want: []int{9}},
		{
			name:  "but not for ever",
			seen:  []sight{{0, "a"}, {1, "b"}, {2, "c"}, {3, "d"}, {4, "e"}, {5, "f"}, {6, "g"}, {7, "h"}, {8, "i"}, {9, "j"}, {10, "k"}, {11, "l"}},
			until: 30, want: []int{10},
		},
		{name: "and back to what is served", seen: []sight{{5, "a"}, {6, ""}}, until: 60},
		{name: "the next waits its time", seen: []sight{{0, "a"}, {5, "b"}}, until: 120, want: []int{2, 32}},
		{name: "the next is settled by then", seen: []sight{{0, "a"}, {50, "b"}}, until: 120, want: []int{2, 52}},
		{name: "failures back off", seen: []sight{{0, "a"}}, fails: 5, until: 1500, want: []int{2, 62, 182, 422, 722, 1022}},
		{name: "served again while failing", seen: []sight{{0, "a"}, {10, ""}}, fails: 9, until: 1500, want: []int{2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g restartGate
			var got []int
			hash, served := "", ""
			for s := range tt.until {
				now := time.Unix(int64(1_000_000+s), 0)
				for _, sight := range tt.seen {
					if sight.at == s {
						hash = sight.hash
					}
				}
				g.observe(now, hash, served)
				due, wait := g.due(now)
				if due && wait != 0 || !due && (wait > 0) != (hash != served) {
					t.Fatalf("%d s: due %v, wait %v with %q served and %q wanted", s, due, wait, served, hash)
				}
				if !due {
					continue
				}
				got = append(got, s)
				ok := len(got) > tt.fails
				if ok {
					served = hash
				}
				if ok {
					g.succeeded(now, hash)
				} else {
					g.failed(now)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("restarts at (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRestartIsNotRepeated: whether the config is the one that is served is
// remembered over the daemon's own restarts.
func TestRestartIsNotRepeated(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	took := n.settle()
	if len(n.restarts.wanted) != 1 || took < restartQuiet || took > 2*restartQuiet {
		t.Fatalf("restarted %d times in %v, want once after %v", len(n.restarts.wanted), took, restartQuiet)
	}
	n.start()
	n.now = n.now.Add(time.Hour)
	n.settle()
	n.declare("b", 2)
	n.settle()
	if len(n.restarts.wanted) != 1 {
		t.Errorf("restarted %d times, want no other for a device that is not advertised", len(n.restarts.wanted))
	}
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.sync()
	n.start() // before the restart that is due
	n.settle()
	if len(n.restarts.wanted) != 2 {
		t.Errorf("restarted %d times, want a second for the second device", len(n.restarts.wanted))
	}
}

func TestFailedRestartIsLoggedOnce(t *testing.T) {
	n := newNode(t, 1)
	n.restarts.err = errors.New("API server is away")
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	for range 20 {
		n.sync()
		n.now = n.now.Add(time.Minute)
	}
	n.restarts.err = nil
	for range 20 {
		n.sync()
		n.now = n.now.Add(time.Minute)
	}
	count := map[string]int{}
	for _, m := range n.logged() {
		count[m]++
	}
	if count["device plugin restart failed, trying again"] != 1 || count["device plugin serves its config"] != 1 {
		t.Errorf("logged %v, want one failure and its end", count)
	}
}
