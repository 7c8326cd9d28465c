package client

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
)

// The first and the longest wait between two tries.
const (
	FirstRetry = time.Second
	LastRetry  = 30 * time.Second
)

// Failures counts failed writes in a row. It logs the first one and their end.
type Failures struct {
	log   logrus.FieldLogger
	retry backoff.Backoff
}

// NewFailures is for an object of that kind.
func NewFailures(log logrus.FieldLogger, object string) *Failures {
	return &Failures{log: log.WithField("object", object), retry: backoff.Backoff{First: FirstRetry, Cap: LastRetry}}
}

// Failed notes a failure and returns the wait before the next try.
func (f *Failures) Failed(ctx context.Context, err error) time.Duration {
	if !f.retry.Failing() && ctx.Err() == nil {
		f.log.WithError(err).Warn("cluster cannot be told of this node")
	}
	return f.retry.Failed()
}

// Over notes a success.
func (f *Failures) Over() {
	if f.retry.Failing() {
		f.log.Info("cluster can be told of this node again")
	}
	f.retry.Reset()
}
