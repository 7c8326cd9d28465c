package awsnode

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// TestInstanceIDIsLearned: a missing answer is no error, and an answer is kept.
func TestInstanceIDIsLearned(t *testing.T) {
	var asked atomic.Int32
	ask := func(context.Context) (string, error) {
		asked.Add(1)
		return "", errors.New("connection refused")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var i InstanceID
	i.Learn(ctx, ask, func() { t.Error("nothing is known") })
	cancel()
	if i.Get() != "" || asked.Load() != 1 {
		t.Errorf("%q after %d questions", i.Get(), asked.Load())
	}
	i.Learn(t.Context(), func(context.Context) (string, error) { return "i-0a1b2c3d", nil }, func() {})
	if i.Get() != "i-0a1b2c3d" {
		t.Errorf("%q, want the answer", i.Get())
	}
}
