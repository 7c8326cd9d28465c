package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// watchEvery is the pause between two looks of status --watch.
const watchEvery = time.Second

// watchStatus prints the status, and again after each change, until ctx ends. It
// returns an error only if the first look fails.
func (p program) watchStatus(ctx context.Context, c statusFlags) error {
	s, err := c.get(ctx)
	if err != nil {
		return err
	}
	screen := newScreen(p.stdout)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		text := fmt.Sprintf("multi-enid status: %v\n", err)
		if err == nil {
			var b bytes.Buffer
			if s.Live != nil {
				s.Live.SyncedAt = time.Time{} // it changes with every look of the daemon
			}
			if err := s.write(&b, c.output); err != nil {
				return err
			}
			text = b.String()
		}
		if err := screen.show(text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s, err = c.get(ctx)
		if ctx.Err() != nil {
			return nil
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
			s.clear = "\x1b[H\x1b[2J\x1b[3J"
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
