// Package steps runs the effects of a verb under names, so that tests can interrupt it at each.
package steps

import (
	"fmt"
	"sync"
)

// Steps runs the effects of one verb. The zero value is ready for use; do not copy it.
type Steps struct {
	// Before, unless nil, is called before each effect. An error from it fails the step.
	Before func(step string) error

	background sync.WaitGroup
}

// Do runs one effect.
func (s *Steps) Do(name string, effect func() error) error {
	if s.Before != nil {
		if err := s.Before(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return effect()
}

// Start runs an effect beside the steps that follow; wait returns its error.
func (s *Steps) Start(name string, effect func() error) (wait func() error) {
	done := make(chan error, 1)
	err := s.Do(name, func() error {
		s.background.Go(func() {
			GrowStack(0)
			done <- effect()
		})
		return nil
	})
	if err != nil {
		done <- err
	}
	return sync.OnceValue(func() error { return <-done })
}

// Wait returns when every started effect has ended.
func (s *Steps) Wait() { s.background.Wait() }

// stackNeed exceeds the stack use of every verb, in octets: mostly netlink's receive buffer.
const stackNeed = 96 << 10

// GrowStack gives the calling goroutine a verb's stack at once. The runtime would double it six
// times from 2 KiB: a tenth of a verb's computing (docs/performance.md). Pass 0: the frame costs
// nothing until it is written to.
//
//go:noinline
func GrowStack(used int) {
	if used == 0 {
		return
	}
	var frame [stackNeed]byte
	clear(frame[:used])
}
