package show

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// Watch prints the output of look, and prints it again after each change, until ctx ends. It
// clears a terminal first. An error of the first look ends it; a later error is printed.
func Watch(ctx context.Context, out io.Writer, every time.Duration, look func(io.Writer) error) error {
	var text bytes.Buffer
	if err := look(&text); err != nil {
		return err
	}
	s := newScreen(out)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := s.show(text.String()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		text.Reset()
		if err := look(&text); ctx.Err() != nil {
			return nil
		} else if err != nil {
			text.Reset()
			fmt.Fprintf(&text, "%v\n", err)
		}
	}
}

// screen shows one text after another, each only if it differs from the one before.
type screen struct {
	out io.Writer
	// clear is written before a text; it empties a terminal.
	clear string
	last  string
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			s.clear = "\x1b[H\x1b[2J" // without 3J: earlier output stays in reach
		}
	}
	return s
}

func (s *screen) show(text string) error {
	if text == s.last {
		return nil
	}
	before := s.clear
	if s.clear == "" && s.last != "" {
		before = "\n"
	}
	s.last = text
	_, err := io.WriteString(s.out, before+text)
	return err
}
