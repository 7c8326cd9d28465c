package backoff

import (
	"testing"
	"testing/quick"
	"time"
)

// TestDoubles checks the waits of any First and Cap: First·2ⁿ after n further failures, at most Cap.
func TestDoubles(t *testing.T) {
	check := func(first, longest uint32, failures uint8) bool {
		b := Backoff{First: 1 + time.Duration(first), Cap: 1 + time.Duration(max(first, longest))}
		if b.Failing() || b.Wait() != 0 {
			return false
		}
		for n := range failures % 64 {
			want := b.Cap
			if n < 30 {
				want = min(b.First<<n, b.Cap)
			}
			if got := b.Failed(); got != want || b.Wait() != want || !b.Failing() {
				return false
			}
		}
		b.Reset()
		return !b.Failing() && b.Failed() == b.First
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
}

func TestRaisedCap(t *testing.T) {
	b := Backoff{First: time.Second, Cap: 3 * time.Second}
	for range 5 {
		b.Failed()
	}
	b.Cap = time.Minute
	if got := b.Failed(); got != 6*time.Second {
		t.Errorf("waits %v, want 6s", got)
	}
}

// TestZeroValue: the zero Backoff neither waits nor fails.
func TestZeroValue(t *testing.T) {
	var b Backoff
	if b.Failed() != 0 || b.Failing() {
		t.Errorf("waits %v", b.Wait())
	}
}
