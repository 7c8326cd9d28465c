// Package clock breaks the rules about time.
package clock

import "time"

// Elapsed reads the real clock.
func Elapsed() time.Duration {
	start := time.Now()      // want "inject the clock"
	time.Sleep(time.Second)  // want "inject the clock"
	_ = time.Until(start)    // want "inject the clock"
	_ = time.Tick(1)         // want "inject the clock"
	now := time.Now          // want "inject the clock"
	_ = now().Add(1)         // a method of a time is no clock
	return time.Since(start) // want "inject the clock"
}
