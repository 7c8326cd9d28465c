package pluginrestart

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSchedule plays the configs that are seen, by second, asks each time as Step would, and
// compares when a restart was due.
func TestSchedule(t *testing.T) {
	type seen struct {
		at   int // seconds
		hash string
	}
	tests := []struct {
		name   string
		config []seen
		fails  int // of the first restarts
		until  int
		want   []int
	}{
		{name: "nothing changes", config: []seen{{0, ""}}, until: 60},
		{name: "one change settles", config: []seen{{5, "a"}}, until: 60, want: []int{7}},
		{name: "each change puts it off", config: []seen{{5, "a"}, {6, "b"}, {7, "c"}}, until: 60, want: []int{9}},
		{
			name:   "but not for ever",
			config: []seen{{0, "a"}, {1, "b"}, {2, "c"}, {3, "d"}, {4, "e"}, {5, "f"}, {6, "g"}, {7, "h"}, {8, "i"}, {9, "j"}, {10, "k"}, {11, "l"}},
			until:  30, want: []int{10},
		},
		{name: "and back to what is served", config: []seen{{5, "a"}, {6, ""}}, until: 60},
		{name: "the next waits its time", config: []seen{{0, "a"}, {5, "b"}}, until: 120, want: []int{2, 32}},
		{name: "the next is settled by then", config: []seen{{0, "a"}, {50, "b"}}, until: 120, want: []int{2, 52}},
		{name: "failures back off", config: []seen{{0, "a"}}, fails: 5, until: 1500, want: []int{2, 62, 182, 422, 722, 1022}},
		{name: "served again while failing", config: []seen{{0, "a"}, {10, ""}}, fails: 9, until: 1500, want: []int{2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g schedule
			var got []int
			hash, served := "", ""
			for s := range tt.until {
				now := time.Unix(int64(1_000_000+s), 0)
				for _, s2 := range tt.config {
					if s2.at == s {
						hash = s2.hash
					}
				}
				g.update(now, hash, served)
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
