package nodeeni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// errMalformed says that an answer is not JSON, or not of the shape that the
// API server gives it.
var errMalformed = errors.New("malformed answer")

// scanner walks over JSON text without copying it. It finds where values begin
// and end; what is inside the ones that are skipped is not looked at. The
// NodeENIs of a large cluster are mostly about other nodes, and this is ten
// times as fast as decoding them.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) malformed(want string) error {
	return fmt.Errorf("%w: octet %d: want %s", errMalformed, s.i, want)
}

// peek returns the first octet of what follows, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
		default:
			return s.b[s.i]
		}
	}
	return 0
}

// take consumes that octet if it follows.
func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

// str consumes a string and returns it with its quotes.
func (s *scanner) str() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.malformed("a string")
	}
	start := s.i
	for i := start + 1; i < len(s.b); i++ {
		n := bytes.IndexByte(s.b[i:], '"')
		if n < 0 {
			break
		}
		i += n
		escapes := i
		for s.b[escapes-1] == '\\' {
			escapes--
		}
		if (i-escapes)%2 == 0 {
			s.i = i + 1
			return s.b[start:s.i], nil
		}
	}
	return nil, s.malformed("the end of a string")
}

// value consumes any value and returns it.
func (s *scanner) value() ([]byte, error) {
	first := s.peek()
	start := s.i
	switch first {
	case '"':
		return s.str()
	case '{', '[':
		for depth := 0; s.i < len(s.b); {
			switch s.b[s.i] {
			case '"':
				if _, err := s.str(); err != nil {
					return nil, err
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			s.i++
			if depth == 0 {
				return s.b[start:s.i], nil
			}
		}
		return nil, s.malformed("the end of a value")
	}
	for ; s.i < len(s.b); s.i++ {
		if c := s.b[s.i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' && c != '+' && c != '.' && c != 'E' {
			break
		}
	}
	if s.i == start {
		return nil, s.malformed("a value")
	}
	return s.b[start:s.i], nil
}

// object consumes an object. Visit is called for each member with its key, in
// quotes, and must consume the value.
func (s *scanner) object(visit func(key []byte) error) error {
	return s.list('{', '}', func() error {
		key, err := s.str()
		if err != nil {
			return err
		}
		if !s.take(':') {
			return s.malformed("a colon")
		}
		return visit(key)
	})
}

// array consumes an array. Visit is called for each element and must consume
// it.
func (s *scanner) array(visit func() error) error { return s.list('[', ']', visit) }

func (s *scanner) list(open, end byte, visit func() error) error {
	if !s.take(open) {
		return s.malformed(string(open))
	}
	if s.take(end) {
		return nil
	}
	for {
		if err := visit(); err != nil {
			return err
		}
		if s.take(end) {
			return nil
		}
		if !s.take(',') {
			return s.malformed("a comma or " + string(end))
		}
	}
}

// text consumes a string and returns what it stands for.
func (s *scanner) text() (string, error) {
	raw, err := s.str()
	if err != nil {
		return "", err
	}
	if !bytes.ContainsRune(raw, '\\') {
		return string(raw[1 : len(raw)-1]), nil
	}
	var out string
	if err := json.Unmarshal(raw, &out); err != nil {
		return "", fmt.Errorf("%w: %w", errMalformed, err)
	}
	return out, nil
}

// textIsNot consumes a string and compares what it stands for.
func (s *scanner) textIsNot(want string) (bool, error) {
	start := s.i
	raw, err := s.str()
	if err != nil {
		return false, err
	}
	if string(raw[1:len(raw)-1]) == want {
		return false, nil
	}
	if !bytes.ContainsRune(raw, '\\') {
		return true, nil
	}
	s.i = start
	text, err := s.text()
	return text != want, err
}

// The sizes of a watch's buffer, in octets. The API server takes no object of
// more than 3 MiB (its limit for a request's body).
const (
	bufferSize    = 64 << 10
	maxBuffer     = 1 << 20 // kept between events
	maxEventBytes = 16 << 20
)

// frames cuts a stream into the JSON objects that follow one another in it.
type frames struct {
	r io.Reader
	// buf[start:end] was read and not returned yet; buf[start:pos] was looked at.
	buf             []byte
	start, pos, end int
	depth           int
	quoted, escaped bool
}

// next returns the next object, which stays valid until the next call. The error
// is io.EOF where the stream ends between two objects.
func (f *frames) next() ([]byte, error) {
	if f.start == f.end {
		f.start, f.pos, f.end = 0, 0, 0
		if cap(f.buf) > maxBuffer {
			f.buf = nil
		}
	}
	for {
		for f.skipText(); f.pos < f.end; f.skipText() {
			done, err := f.step(f.buf[f.pos])
			if err != nil {
				return nil, err
			}
			f.pos++
			if done {
				frame := f.buf[f.start:f.pos]
				f.start = f.pos
				return frame, nil
			}
		}
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
}

// skipText goes over the inside of a string, as far as it is there and without
// escapes.
func (f *frames) skipText() {
	if !f.quoted || f.escaped {
		return
	}
	text := f.buf[f.pos:f.end]
	if i := bytes.IndexByte(text, '"'); i >= 0 {
		text = text[:i]
	}
	if i := bytes.IndexByte(text, '\\'); i >= 0 {
		text = text[:i]
	}
	f.pos += len(text)
}

// step looks at one octet and says whether an object ends with it.
func (f *frames) step(c byte) (done bool, err error) {
	switch {
	case f.escaped:
		f.escaped = false
	case f.quoted:
		f.escaped, f.quoted = c == '\\', c != '"'
	case c == '"':
		f.quoted = true
	case c == '{' || c == '[':
		f.depth++
	case f.depth > 0 && (c == '}' || c == ']'):
		f.depth--
		return f.depth == 0, nil
	}
	if f.depth > 0 {
		return false, nil
	}
	if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
		return false, fmt.Errorf("%w: %q between two events", errMalformed, c)
	}
	f.start = f.pos + 1
	return false, nil
}

// fill reads more.
func (f *frames) fill() error {
	if f.end == len(f.buf) {
		if f.end-f.start > maxEventBytes {
			return fmt.Errorf("%w: an event of more than %d octets", errMalformed, maxEventBytes)
		}
		buf := f.buf
		if f.end-f.start > len(buf)/2 || buf == nil {
			buf = make([]byte, max(bufferSize, 2*len(buf)))
		}
		f.end = copy(buf, f.buf[f.start:f.end])
		f.pos, f.start, f.buf = f.end, 0, buf
	}
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	switch {
	case n > 0:
		return nil
	case errors.Is(err, io.EOF) && f.start < f.end:
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}
