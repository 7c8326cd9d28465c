// Package terminal tells a story in a terminal: real commands with their real output, each of which is checked.
package terminal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Story is the story so far.
type Story struct {
	// Ctx ends every command and every wait.
	Ctx context.Context //nolint:containedctx // the story is the scope of the context
	// Env is the environment of the commands.
	Env []string
	// Patience bounds each wait; 0 is 20 s.
	Patience time.Duration

	steps int
}

// Say begins the next step.
func (s *Story) Say(what string) {
	s.steps++
	fmt.Printf("\n%d. %s\n", s.steps, what)
}

// Sh prints a command and its output, and returns the output.
func (s *Story) Sh(command string) (string, error) {
	fmt.Printf("   $ %s\n", command)
	cmd := exec.CommandContext(s.Ctx, "/bin/sh", "-c", command)
	cmd.Env = s.Env
	out, err := cmd.CombinedOutput()
	text := strings.TrimRight(string(out), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		if line != "" {
			fmt.Println("     " + line)
		}
	}
	return text, err
}

// Must fails unless the command succeeds and its output has all of words.
func (s *Story) Must(command string, words ...string) error {
	out, err := s.Sh(command)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return Contains(command, out, words)
}

// Refused fails unless the command fails and its output has all of words.
func (s *Story) Refused(command string, words ...string) error {
	out, err := s.Sh(command)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s: it was not refused", command)
	}
	return Contains(command, out, words)
}

// Contains fails unless the output has all of words; a table may break its lines between them.
func Contains(command, out string, words []string) error {
	out = strings.Join(strings.Fields(out), " ")
	for _, w := range words {
		if !strings.Contains(out, w) {
			return fmt.Errorf("%s: the output does not say %q", command, w)
		}
	}
	return nil
}

const waitPoll = time.Millisecond

// WaitFor waits until ok, and returns how long it took.
func (s *Story) WaitFor(what string, ok func() bool) (time.Duration, error) {
	started, patience := time.Now(), cmp.Or(s.Patience, 20*time.Second)
	for !ok() {
		select {
		case <-s.Ctx.Done():
			return 0, fmt.Errorf("waiting for %s: %w", what, s.Ctx.Err())
		case <-time.After(waitPoll):
		}
		if time.Since(started) > patience {
			return 0, fmt.Errorf("waited %v for %s", patience, what)
		}
	}
	return time.Since(started), nil
}
