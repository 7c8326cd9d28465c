package nodeeni

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// errMalformed: an answer is not JSON, or not of the API server's shape.
var errMalformed = errors.New("malformed answer")

// maxEventBytes bounds an event: the API server's limit for a request's body, and so for an object, is 3 MiB.
const maxEventBytes = 16 << 20

// reader reads JSON as it arrives. No whole object is ever in memory, and skipped values take none: in a large cluster most are other nodes'.
type reader struct {
	*jsontext.Decoder
	body *limited
}

// newReader reads from r, at most that many bytes until the next call of more; 0 for any number.
// Decoding the kept values finds duplicate names and invalid UTF-8.
func newReader(r io.Reader, most int) *reader {
	body := &limited{r: r, most: most}
	return &reader{body: body, Decoder: jsontext.NewDecoder(body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

func (a *reader) more() { a.body.n = 0 }

type limited struct {
	r       io.Reader
	n, most int
	err     error
}

func (l *limited) Read(p []byte) (int, error) {
	if l.most > 0 && l.n > l.most {
		return 0, fmt.Errorf("%w: an event of more than %d octets", errMalformed, l.most)
	}
	n, err := l.r.Read(p)
	l.n, l.err = l.n+n, err
	return n, err
}

// fault returns the reader's own error, io.EOF between two values, io.ErrUnexpectedEOF inside one, else errMalformed.
func (a *reader) fault(err error) error {
	switch {
	case errors.Is(err, errMalformed):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return io.EOF
	case a.body.err != nil && !errors.Is(a.body.err, io.EOF):
		return a.body.err
	}
	return fmt.Errorf("%w: %w", errMalformed, err)
}

func (a *reader) malformed(want string) error {
	return fmt.Errorf("%w: octet %d: want %s", errMalformed, a.InputOffset(), want)
}

// object consumes an object. Visit gets each member's key, in quotes and valid until the next read, and must consume the value.
func (a *reader) object(visit func(key []byte) error) error {
	return a.list('{', func() error {
		key, err := a.ReadValue()
		if err != nil {
			return err
		}
		return visit(key)
	})
}

// list consumes an object or array. Visit must consume an element or member.
func (a *reader) list(open jsontext.Kind, visit func() error) error {
	token, err := a.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != open {
		return a.malformed(string(open))
	}
	for {
		if kind := a.PeekKind(); kind == '}' || kind == ']' {
			_, err := a.ReadToken()
			return err
		}
		if err := visit(); err != nil {
			return err
		}
	}
}

func (a *reader) text() (string, error) {
	token, err := a.ReadToken()
	if err == nil && token.Kind() != '"' {
		err = a.malformed("a string")
	}
	if err != nil {
		return "", err
	}
	return token.String(), nil
}

// value consumes any value and returns its text.
func (a *reader) value() ([]byte, error) {
	v, err := a.ReadValue()
	return bytes.Clone(v), err
}
