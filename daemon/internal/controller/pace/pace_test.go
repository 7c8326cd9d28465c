package pace

import (
	"errors"
	"testing"
	"time"
)

func TestWrites(t *testing.T) {
	var w Writes
	failure := errors.New("no")
	for i, step := range []struct {
		err   error
		stale bool
		wait  time.Duration
		news  bool
	}{
		{failure, true, Retry / 10, false},
		{failure, true, Retry / 5, false},
		{failure, false, Retry, true},
		{failure, false, 2 * Retry, false},
		{nil, false, 0, false},
		{failure, false, Retry, true},
	} {
		if wait, news := w.Ended(step.err, step.stale); wait != step.wait || news != step.news {
			t.Errorf("write %d: wait %v, news %v; want %v, %v", i, wait, news, step.wait, step.news)
		}
	}
	wait := time.Duration(0)
	for range 100 {
		wait, _ = w.Ended(failure, true)
	}
	if wait != Most {
		t.Errorf("at last %v, want %v", wait, Most)
	}
}
