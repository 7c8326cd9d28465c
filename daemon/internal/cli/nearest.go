package cli

import (
	"cmp"
	"slices"
	"strings"
)

// mostNear is how many names Nearest returns at most.
const mostNear = 3

// Nearest are the names that a misspelt word most likely means. At most a third of its letters differ, or it is the beginning of a name.
func Nearest(word string, names []string) []string {
	type near struct {
		name     string
		distance int
	}
	var found []near
	for _, name := range names {
		d := distance(strings.ToLower(word), strings.ToLower(name))
		if len(word) > 1 && strings.HasPrefix(name, word) {
			d = min(d, 1)
		}
		if d <= max(len(word), 3)/3 {
			found = append(found, near{name, d})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return cmp.Compare(a.distance, b.distance) })
	var out []string
	for _, n := range found[:min(len(found), mostNear)] {
		if n.distance == found[0].distance {
			out = append(out, n.name)
		}
	}
	return out
}

// distance is how many letters differ: inserted, deleted, replaced or swapped with the next (Damerau and Levenshtein, restricted).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
