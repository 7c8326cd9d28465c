package netconf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Other plugins read their netconfs with encoding/json, which ignores case: "dataDir" and
// "DATADIR" are one key. Keys are compared in the same way here, and no object may have a
// key twice.

// fold returns a key in one spelling for all that encoding/json treats as equal. The
// Kelvin sign equals k, and the long s equals s.
func fold(key string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, key)
}

func containsFold(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, key) })
}

// twin is a key that its object already has, in the spelling of.
type twin struct{ path, key, of string }

func (t twin) problem() string {
	if t.key == t.of {
		return "is given twice; remove one"
	}
	return fmt.Sprintf("is %s in another spelling, and other plugins may read either one; remove one", t.of)
}

// mostTwins bounds the faults of a hostile text.
const mostTwins = 16

// twins finds up to most twins at any depth of a valid JSON text.
func twins(text []byte, most int) (found []twin) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber() // else a number that no float64 holds is an error
	var path []string
	var value func()
	inside := func(place string) {
		path = append(path, place)
		value()
		path = path[:len(path)-1]
	}
	value = func() {
		switch token, _ := dec.Token(); token { // no error: the text is valid
		case json.Delim('['):
			for n := 0; dec.More(); n++ {
				inside(fmt.Sprintf("[%d]", n))
			}
		case json.Delim('{'):
			seen := map[string]string{} // by fold
			for dec.More() {
				token, _ := dec.Token()
				key := token.(string) //nolint:errcheck,forcetypeassert // JSON's keys are strings
				first, twice := seen[fold(key)]
				if !twice {
					seen[fold(key)] = key
				} else if len(found) < most {
					found = append(found, twin{strings.TrimPrefix(strings.Join(path, "")+"."+key, "."), key, first})
				}
				inside("." + key)
			}
		default:
			return
		}
		_, _ = dec.Token() // the end of the list or object
	}
	value()
	return found
}

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
