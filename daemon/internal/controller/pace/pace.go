// Package pace spaces the writes of one object that fail.
package pace

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
)

const (
	// Retry is when a failed write is tried again at first.
	Retry = 2 * time.Second
	// Most is when it is tried again at last.
	Most = time.Minute
)

// Writes are the writes of one object. The zero value has had none.
type Writes struct {
	backoff backoff.Backoff
	said    bool
}

// Ended notes how a write ended, and returns how long the next must wait. stale: the object has changed since it was seen, which is no fault.
// news: the error is the first one in a row, and worth a line.
func (w *Writes) Ended(err error, stale bool) (wait time.Duration, news bool) {
	if err == nil {
		*w = Writes{}
		return 0, false
	}
	w.backoff.First, w.backoff.Cap = Retry, Most
	if stale {
		w.backoff.First = Retry / 10
	}
	news = !stale && !w.said
	w.said = w.said || news
	return w.backoff.Failed(), news
}
