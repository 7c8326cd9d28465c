package backoff

import (
	"context"
	"testing"
	"time"
)

func TestSleep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if !Sleep(ctx, time.Millisecond) {
		t.Error("the context seems to have ended")
	}
	cancel()
	if Sleep(ctx, time.Hour) {
		t.Error("the context seems to be alive")
	}
}
