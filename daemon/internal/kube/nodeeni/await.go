package nodeeni

import (
	"context"
	"errors"
	"time"
)

// firstAnswer bounds the first Sync's wait for the NodeENIs. Without them it changes no
// device, and a problem says so.
const firstAnswer = 3 * time.Second

// Await waits until the NodeENIs are known, so that a start is not an outage. wake tells that
// something has changed. It returns an error if the Node is another instance's.
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
