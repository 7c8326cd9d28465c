package cluster

import (
	"testing"
	"time"
)

// look is how often a state is looked for.
const look = 20 * time.Millisecond

// Eventually waits until probe returns nil, and returns how long that took. The
// test ends if it has not within that time; the last error says why.
func Eventually(t testing.TB, what string, within time.Duration, probe func() error) time.Duration {
	t.Helper()
	started := time.Now()
	for {
		err := probe()
		took := time.Since(started)
		if err == nil {
			return took
		}
		if took > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		pause(t)
	}
}

// Holds checks that probe returns nil all the time. The test ends at the first
// error.
func Holds(t testing.TB, what string, during time.Duration, probe func() error) {
	t.Helper()
	for started := time.Now(); time.Since(started) < during; pause(t) {
		if err := probe(); err != nil {
			t.Fatalf("%s: not any more after %v: %v", what, time.Since(started), err)
		}
	}
}

func pause(t testing.TB) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(look):
	}
}
