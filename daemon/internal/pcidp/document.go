package pcidp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SyntaxError says that a config is not a JSON object with a list of resources, so nothing in it can be kept.
type SyntaxError struct {
	Offset int64 // the number of octets read before the fault; 0 when the text is JSON of another shape
	Err    error
}

func (e *SyntaxError) Error() string {
	if e.Offset == 0 {
		return fmt.Sprintf("parse device plugin config: %v", e.Err)
	}
	return fmt.Sprintf("parse device plugin config: after octet %d: %v", e.Offset, e.Err)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

const listKey = "resourceList"

// document is a config split into the pieces that must survive as they are.
type document struct {
	// members are the top-level keys in order. list is the index of the resource list; -1 without one.
	members  []member
	list     int
	entries  []json.RawMessage
	shadowed int // shadowed counts earlier resource lists, which are in no other field: the plugin reads the last
}

// member is a key, quoted as it was, and its value.
type member struct {
	key, value json.RawMessage
}

// parseDocument reads a config by the plugin's rules: keys match in any case, and null is an empty object or list. nil,
// a missing file, is an empty object. A byte order mark is dropped, on which the plugin would exit.
func parseDocument(data []byte) (document, error) {
	doc := document{list: -1}
	if data == nil {
		return doc, nil
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if err := json.Unmarshal(data, &json.RawMessage{}); err != nil {
		return doc, syntaxError(err)
	}
	if string(bytes.TrimSpace(data)) == "null" {
		return doc, nil
	}
	members, err := objectMembers(data)
	if err != nil {
		return doc, err
	}
	for _, m := range members {
		var name string
		if err := json.Unmarshal(m.key, &name); err != nil {
			return doc, syntaxError(err)
		}
		if strings.EqualFold(name, listKey) {
			if doc.list >= 0 {
				doc.members = slices.Delete(doc.members, doc.list, doc.list+1)
				doc.shadowed++
			}
			doc.list = len(doc.members)
		}
		doc.members = append(doc.members, m)
	}
	if doc.list < 0 {
		return doc, nil
	}
	if err := json.Unmarshal(doc.members[doc.list].value, &doc.entries); err != nil {
		return doc, &SyntaxError{Err: fmt.Errorf("%s is not a list: %w", listKey, err)}
	}
	return doc, nil
}

func syntaxError(err error) error {
	var s *json.SyntaxError
	if errors.As(err, &s) {
		return &SyntaxError{Offset: s.Offset, Err: err}
	}
	return &SyntaxError{Err: err}
}

// objectMembers splits a JSON object. A map would lose order, doubled keys and the keys' spelling.
func objectMembers(data []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, &SyntaxError{Err: errors.New("want an object at the top")}
	}
	var members []member
	for dec.More() {
		start := dec.InputOffset()
		if _, err := dec.Token(); err != nil {
			return nil, syntaxError(err)
		}
		m := member{key: bytes.TrimLeft(data[start:dec.InputOffset()], ", \t\r\n")}
		if err := dec.Decode(&m.value); err != nil {
			return nil, syntaxError(err)
		}
		members = append(members, m)
	}
	return members, nil
}

// format writes the document with the entries as its only resource list: valid JSON, indented by two spaces, with a
// final line end. It re-encodes no value.
func (d document) format(entries []json.RawMessage) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	if d.list < 0 {
		b.WriteString(`"` + listKey + `":`)
		writeList(&b, entries)
	}
	for i, m := range d.members {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(m.key)
		b.WriteByte(':')
		if i == d.list {
			writeList(&b, entries)
		} else {
			b.Write(m.value)
		}
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("format device plugin config: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func writeList(b *bytes.Buffer, entries []json.RawMessage) {
	b.WriteByte('[')
	for i, e := range entries {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(e)
	}
	b.WriteByte(']')
}

// sameValue compares two valid JSON texts without regard to white space.
func sameValue(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
