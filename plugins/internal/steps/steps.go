// Package steps runs the effects of a verb under names, by which tests interrupt a verb
// at every one of them.
package steps

import (
	"fmt"
	"sync"
)

// Steps runs the effects of one verb. The zero value is ready for use; do not copy it.
type Steps struct {
	// Before is called with the name of each step before its effect. An error from it
	// fails the step. Nil is allowed.
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

// Start runs an effect beside the steps that follow; wait returns its error. A verb
// spends most of its time waiting for the kernel to move a link.
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

// stackNeed exceeds the stack use of every verb, in octets. Two thirds of it is the
// buffer of netlink's Receive.
const stackNeed = 96 << 10

// GrowStack gives the calling goroutine the stack that a verb needs, in one step. The
// runtime would double it six times from 2 KiB, and look up every caller in the
// program's tables each time: a tenth of a verb's computing (docs/performance.md).
// Pass 0: the frame costs nothing until it is written to.
//
//go:noinline
func GrowStack(used int) {
	if used == 0 {
		return
	}
	var frame [stackNeed]byte
	clear(frame[:used])
}
