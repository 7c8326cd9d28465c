package cluster

import (
	"testing"
	"time"
)

const look = 20 * time.Millisecond

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until probe returns nil, and returns the time that it took. The limit ends the test with the last error.
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

// Holds checks that probe returns nil for the whole time. The first error ends the test.
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
