package fakeec2

import (
	"encoding/xml"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// params are a call's parameters. The handler must take each of them.
type params map[string][]string

var number = regexp.MustCompile(`\.[0-9]+`)

func (p params) take(name string) string {
	v := p[name]
	delete(p, name)
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func (p params) has(name string) bool {
	_, ok := p[name]
	return ok
}

func (p params) peek(name string) string {
	if v := p[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (p params) list(name string) (out []string) {
	for i := 1; ; i++ {
		key := name + "." + strconv.Itoa(i)
		if !p.has(key) {
			return out
		}
		out = append(out, p.take(key))
	}
}

func (p params) peekList(name string) []string { return maps.Clone(p).list(name) }

// count is a number of at least 1, or 0 if it is not given.
func (p params) count(name string) (int, error) {
	v := p.take(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", v, name)
	}
	return n, nil
}

// number is a number of at least 0.
func (p params) number(name string) (int, error) {
	v := p.take(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", v, name)
	}
	return n, nil
}

func (p params) bool(name string) (value, given bool, err error) {
	if !p.has(name) {
		return false, false, nil
	}
	v := p.take(name)
	if v != "true" && v != "false" {
		return false, true, refuse("InvalidParameterValue", "Invalid value '%s' for %s. Must be 'true' or 'false'", v, name)
	}
	return v == "true", true, nil
}

// tags are those below a prefix such as "Tag" (restrictions: "Tag your Amazon EC2 resources", user guide).
func (p params) tags(prefix string) (map[string]string, error) {
	tags := map[string]string{}
	for i := 1; p.has(fmt.Sprintf("%s.%d.Key", prefix, i)); i++ {
		k, v := p.take(fmt.Sprintf("%s.%d.Key", prefix, i)), p.take(fmt.Sprintf("%s.%d.Value", prefix, i))
		_, twice := tags[k]
		switch {
		case k == "" || len(k) > 128 || len(v) > 256:
			return nil, refuse("InvalidParameterValue", "Tag key '%s' or its value is too short or too long", k)
		case strings.HasPrefix(strings.ToLower(k), "aws:"):
			return nil, refuse("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		case twice:
			return nil, refuse("InvalidParameterValue", "Duplicate tag key '%s' specified.", k)
		}
		tags[k] = v
	}
	if len(tags) > maxTags {
		return nil, refuse("TagLimitExceeded", "More than %d tags specified", maxTags)
	}
	return tags, nil
}

// maxTags is the limit of a resource ("Tag restrictions", user guide).
const maxTags = 50

// filter is one Filter.N: all of them must hold, one of each one's values.
type filter struct {
	name   string
	values []string
}

// filters takes a Describe's filters ("Filtering your resources", user guide: 50 filters, 200 values each).
func (p params) filters() (out []filter, err error) {
	for i := 1; p.has(fmt.Sprintf("Filter.%d.Name", i)); i++ {
		f := filter{p.take(fmt.Sprintf("Filter.%d.Name", i)), p.list(fmt.Sprintf("Filter.%d.Value", i))}
		if len(f.values) > 200 || i > 50 {
			return nil, refuse("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
		}
		if len(f.values) == 0 {
			return nil, refuse("InvalidParameterValue", "The filter '%s' has no value", f.name)
		}
		out = append(out, f)
	}
	return out, nil
}

func (f filter) wild() bool {
	return slices.ContainsFunc(f.values, func(v string) bool { return strings.ContainsAny(v, `*?\`) })
}

// holds says whether one of a resource's values is one of the filter's. Values are case-sensitive; * and ? are wildcards, \ escapes them.
func (f filter) holds(have ...string) bool {
	for _, want := range f.values {
		for _, v := range have {
			if want == v || strings.ContainsAny(want, `*?\`) && like(want, v) {
				return true
			}
		}
	}
	return false
}

// like matches from the end of the pattern's plain part: patterns of tests are short.
func like(pattern, v string) bool {
	for pattern != "" {
		switch c := pattern[0]; {
		case c == '*':
			for i := 0; i <= len(v); i++ {
				if like(pattern[1:], v[i:]) {
					return true
				}
			}
			return false
		case v == "":
			return false
		case c == '\\' && len(pattern) > 1:
			pattern = pattern[1:]
			if pattern[0] != v[0] {
				return false
			}
		case c != '?' && c != v[0]:
			return false
		}
		pattern, v = pattern[1:], v[1:]
	}
	return v == ""
}

// tagged says whether a filter about tags holds; asked is false if it is about something else.
func (f filter) tagged(tags map[string]string) (holds, asked bool) {
	if key, ok := strings.CutPrefix(f.name, "tag:"); ok {
		v, has := tags[key]
		return has && f.holds(v), true
	}
	if f.name == "tag-key" {
		return f.holds(slices.Collect(maps.Keys(tags))...), true
	}
	return false, false
}

func item(name, content string) string { return "<" + name + ">" + content + "</" + name + ">" }

func items[T any](name string, all []T, one func(T) string) string {
	var b strings.Builder
	b.WriteString("<" + name + ">")
	for _, v := range all {
		b.WriteString("<item>" + one(v) + "</item>")
	}
	b.WriteString("</" + name + ">")
	return b.String()
}

func tagSet(tags map[string]string) string {
	return items("tagSet", slices.Sorted(maps.Keys(tags)), func(k string) string { return item("key", text(k)) + item("value", text(tags[k])) })
}

func text(s string) string {
	if !strings.ContainsAny(s, "<>&'\"\t\n\r") {
		return s
	}
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
