package nodeeni

import (
	"context"
	"errors"
	"time"
)

// firstAnswer bounds the first Sync's wait. Without the NodeENIs that Sync changes no device, and reports a problem.
const firstAnswer = 3 * time.Second

// Await waits for the NodeENIs, so that a start is not an outage. wake signals a change. A Node of another instance is an error.
func (s *Source) Await(ctx context.Context, wake <-chan struct{}) error {
	timeout := time.NewTimer(firstAnswer)
	defer timeout.Stop()
	for {
		_, err := s.List()
		var other *OtherInstanceError
		if err == nil || errors.As(err, &other) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timeout.C:
			return nil
		case <-wake:
		}
	}
}
