package main

import (
	"context"
	"io"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
)

// watchEvery is the pause between two looks of status --watch.
const watchEvery = time.Second

// watchStatus prints the status, and again after each change, until ctx ends.
func (p program) watchStatus(ctx context.Context, c statusFlags) error {
	return show.Watch(ctx, p.stdout, watchEvery, func(out io.Writer) error {
		s, err := c.get(ctx)
		if err != nil {
			return err
		}
		if s.Live != nil {
			s.Live.SyncedAt = time.Time{} // it changes with every look of the daemon
		}
		return s.write(out, c.output)
	})
}
