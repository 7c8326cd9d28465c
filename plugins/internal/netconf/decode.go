package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// DecodeError says that the input is not a JSON object.
type DecodeError struct {
	Text []byte // the input
	Err  error
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("decode netconf %q: %v; want one JSON object", clip(e.Text), e.Err)
}

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.Err }

// Fault is one fault of a netconf.
type Fault struct {
	Path    string // as in select.nodeENI or routes[2].dst
	Problem string // with the value and the remedy
}

// InvalidError lists every fault of a netconf, sorted by path.
type InvalidError struct{ Faults []Fault }

func (e *InvalidError) Error() string {
	parts := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		parts[i] = f.Path + ": " + f.Problem
	}
	return "invalid netconf: " + strings.Join(parts, "; ")
}

// decoder reads one JSON object. All decoders of a netconf share faults. A null key is absent.
type decoder struct {
	fields map[string]json.RawMessage
	whole  json.RawMessage
	prefix string
	faults *[]Fault
}

func newDecoder(stdin []byte) (*decoder, error) {
	whole, err := canonical(stdin)
	if err != nil {
		return nil, &DecodeError{Text: stdin, Err: err}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(whole, &fields); err != nil {
		return nil, &DecodeError{Text: stdin, Err: err}
	}
	d := &decoder{fields: fields, whole: whole, faults: new([]Fault)}
	for _, t := range twins(stdin, mostTwins) {
		d.fault(t.path, "%s", t.problem())
	}
	return d, nil
}

// canonical returns a JSON object with every key once, with its last value.
func canonical(stdin []byte) (json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(stdin))
	dec.UseNumber()
	var object map[string]any
	if err := dec.Decode(&object); err != nil {
		return nil, err
	}
	if object == nil {
		return nil, errors.New("got null")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("got more after the object")
	}
	return json.Marshal(object)
}

func (d *decoder) fault(key, format string, args ...any) {
	f := Fault{Path: d.prefix + key, Problem: fmt.Sprintf(format, args...)}
	if !slices.Contains(*d.faults, f) {
		*d.faults = append(*d.faults, f)
	}
}

// faultAt reports whether one of the fields, or something inside it, has a fault.
func (d *decoder) faultAt(keys ...string) bool {
	return slices.ContainsFunc(*d.faults, func(f Fault) bool {
		return slices.ContainsFunc(keys, func(k string) bool {
			rest, ok := strings.CutPrefix(f.Path, d.prefix+k)
			return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
		})
	})
}

func (d *decoder) onlyKeys(known ...string) {
	for _, key := range slices.Sorted(maps.Keys(d.fields)) {
		if !slices.Contains(known, key) {
			d.fault(key, "unknown key%s; remove it", suggest(key, known))
		}
	}
}

func (d *decoder) err() error {
	if len(*d.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(*d.faults, func(a, b Fault) int { return strings.Compare(a.Path, b.Path) })
	return &InvalidError{Faults: *d.faults}
}

func (d *decoder) raw(key string, dst *json.RawMessage) bool {
	v, ok := d.fields[key]
	if !ok || bytes.Equal(v, []byte("null")) {
		return false
	}
	*dst = v
	return true
}

func (d *decoder) str(key string, dst *string) bool {
	var raw json.RawMessage
	if !d.raw(key, &raw) {
		return false
	}
	var v string
	if json.Unmarshal(raw, &v) != nil {
		d.fault(key, "%s: want a string", clip(raw))
		return false
	}
	*dst = v
	return true
}

// parseInto parses a string field; an empty string is absent.
func parseInto[T any](d *decoder, key string, dst *T, parse func(string) (T, error)) bool {
	var s string
	if !d.str(key, &s) || s == "" {
		return false
	}
	v, err := parse(s)
	if err != nil {
		d.fault(key, "%v", err)
		return false
	}
	*dst = v
	return true
}

// number reads a whole number from low to high; 0 is absent.
func (d *decoder) number(key string, low, high int, want string) int {
	var raw json.RawMessage
	if !d.raw(key, &raw) {
		return 0
	}
	var v int
	if json.Unmarshal(raw, &v) != nil || (v != 0 && (v < low || v > high)) {
		d.fault(key, "%s: want %s", clip(raw), want)
		return 0
	}
	return v
}

func (d *decoder) oneOf(key string, dst *string, values ...string) {
	var v string
	if !d.str(key, &v) || v == "" {
		return
	}
	if !slices.Contains(values, v) {
		d.fault(key, "%q: want one of %s", v, strings.Join(values, ", "))
		return
	}
	*dst = v
}

// object returns the decoder of an object field; nil if it is absent, or with a fault.
func (d *decoder) object(key string) *decoder {
	var raw json.RawMessage
	if !d.raw(key, &raw) {
		return nil
	}
	return d.nested(key, raw)
}

// rawObject returns an object unchanged; nil if it is absent, or with a fault if it does not decode
// into form.
func (d *decoder) rawObject(key string, form any, want string) json.RawMessage {
	var raw json.RawMessage
	if !d.raw(key, &raw) {
		return nil
	}
	if raw[0] != '{' || json.Unmarshal(raw, form) != nil {
		d.fault(key, "%s: want %s", clip(raw), want)
		return nil
	}
	return raw
}

func (d *decoder) nested(key string, raw json.RawMessage) *decoder {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		d.fault(key, "%s: want an object", clip(raw))
		return nil
	}
	return &decoder{fields: fields, whole: raw, prefix: d.prefix + key + ".", faults: d.faults}
}

// list returns the decoders of a list of objects; nil, with a fault, for one that is no object.
func (d *decoder) list(key string) []*decoder {
	var raw json.RawMessage
	if !d.raw(key, &raw) {
		return nil
	}
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		d.fault(key, "%s: want a list", clip(raw))
		return nil
	}
	out := make([]*decoder, len(items))
	for i, item := range items {
		out[i] = d.nested(fmt.Sprintf("%s[%d]", key, i), item)
	}
	return out
}

func clip(raw []byte) string {
	const most = 60
	if len(raw) > most {
		return string(bytes.ToValidUTF8(raw[:most], nil)) + "…"
	}
	return string(raw)
}

// VersionError says that the netconf's CNI version is unknown.
type VersionError struct{ Version string }

func (e *VersionError) Error() string {
	return fmt.Sprintf("cniVersion: %q: want one of %s", e.Version, strings.Join(version.All.SupportedVersions(), ", "))
}

func (d *decoder) check(c *Config) {
	for _, key := range slices.Sorted(maps.Keys(d.fields)) {
		if !slices.Contains(specKeys, key) && !slices.Contains(ownKeys, key) && !strings.HasPrefix(key, "cni.dev/") && !d.faultAt(key) {
			d.fault(key, "unknown key%s; remove it", suggest(key, suggestions()))
		}
	}
	if c.ENIIPAM != nil {
		c.ENIIPAM.checkSharing(d, c.Delegate)
	}
	d.checkRequests(c)
	if c.Delegate != nil && c.Delegate.OwnMTU() && c.MTU != 0 {
		d.fault("mtu", "%d, but delegate has an mtu of its own; remove one of them", c.MTU)
	}
	if s := c.Select.PCIAddress; s != "" && c.DeviceID != "" && s != c.DeviceID {
		d.fault("select.pciAddress", "%s, but the runtime allocated %s; remove one of them", s, c.DeviceID)
	}
}

// refused returns the error with which ADD refuses the netconf; nil if it does not.
func (d *decoder) refused(c *Config) error {
	if c.CNIVersion != "" && !slices.Contains(version.All.SupportedVersions(), c.CNIVersion) {
		return &VersionError{c.CNIVersion}
	}
	return d.err()
}
