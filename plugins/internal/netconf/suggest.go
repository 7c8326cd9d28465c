package netconf

import (
	"fmt"
	"strings"
)

// suggest names the known key that a misspelt one may mean. It is the nearest with at most
// one edit per three letters, and at most two. Case, '-' and '_' do not count. A known key
// may have a prefix with a dot, which tells its place.
func suggest(key string, known []string) string {
	fold := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	best, least := "", min(2, len(fold(key))/3)+1
	for _, k := range known {
		if n := edits(fold(key), fold(k[strings.LastIndex(k, ".")+1:])); n < least {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// edits returns the Levenshtein distance of two short strings, in octets.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
