package hostlinks

import (
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// TestUnmarked: each link has its own time without a mark.
func TestUnmarked(t *testing.T) {
	var u unmarked
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := link.Link{Index: 1, MAC: "02:00:00:00:00:01"}
	look := func(l link.Link, foreign map[int]string) time.Duration {
		now = now.Add(time.Second)
		return u.see([]link.Link{l}, foreign, now)[l.Index]
	}
	look(one, nil)
	if got := look(one, nil); got != time.Second {
		t.Errorf("%v, want a second", got)
	}
	if look(one, map[int]string{1: "x"}); look(one, nil) != 0 || look(one, nil) != time.Second {
		t.Error("a mark does not begin the time anew")
	}
	if got := look(link.Link{Index: 1, MAC: "02:00:00:00:00:02"}, nil); got != 0 {
		t.Errorf("%v of another link, want none", got)
	}
}
