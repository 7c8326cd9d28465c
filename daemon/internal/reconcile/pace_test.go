package reconcile

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	unsettled := Outcome{Unsettled: true}
	for i, want := range []time.Duration{retryFirst, 2 * retryFirst, retryNext, retryNext} {
		if got := p.next(unsettled); got != want {
			t.Errorf("wait %d = %s; want %s", i, got, want)
		}
	}
	var last time.Duration
	for range retrySoon {
		last = p.next(unsettled)
	}
	if last != retryLatest {
		t.Errorf("wait after %d more = %s; want %s", retrySoon, last, retryLatest)
	}
	p.event()
	if got := p.next(unsettled); got != retryFirst {
		t.Errorf("wait after an event = %s; want %s", got, retryFirst)
	}
	if got := p.next(Outcome{}); got != resyncEvery {
		t.Errorf("wait when settled = %s; want %s", got, resyncEvery)
	}
	if got := p.next(Outcome{After: time.Second}); got != time.Second {
		t.Errorf("wait when asked for a second = %s", got)
	}
}
