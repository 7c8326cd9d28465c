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
	type level struct {
		seen map[string]string // by fold; nil in a list
		key  string            // the last one
		n    int               // elements of a list so far
	}
	var open []level
	path := func() string {
		var b strings.Builder
		for _, l := range open {
			switch {
			case l.seen == nil:
				fmt.Fprintf(&b, "[%d]", l.n)
			case b.Len() > 0:
				b.WriteString("." + l.key)
			default:
				b.WriteString(l.key)
			}
		}
		return b.String()
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	wantKey := false
	ended := func() { // a value
		if len(open) == 0 {
			return
		}
		l := &open[len(open)-1]
		l.n++
		wantKey = l.seen != nil
	}
	for {
		token, err := dec.Token()
		if err != nil || len(found) == most {
			return found
		}
		switch {
		case token == json.Delim('{'):
			open, wantKey = append(open, level{seen: map[string]string{}}), true
		case token == json.Delim('['):
			open, wantKey = append(open, level{}), false
		case token == json.Delim('}'), token == json.Delim(']'):
			open = open[:len(open)-1]
			ended()
		case wantKey:
			l := &open[len(open)-1]
			l.key, wantKey = token.(string), false //nolint:errcheck,forcetypeassert // JSON's keys are strings
			if first, twice := l.seen[fold(l.key)]; twice {
				found = append(found, twin{path(), l.key, first})
			} else {
				l.seen[fold(l.key)] = l.key
			}
		default:
			ended()
		}
	}
}
