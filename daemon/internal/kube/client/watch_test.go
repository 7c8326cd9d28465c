package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPatienceEnds(t *testing.T) {
	lasts := int64(300)
	for name, tc := range map[string]struct {
		answered bool
		want     time.Duration
		cause    error
	}{
		"no answer":        {false, answerTimeout, ErrNoAnswer},
		"a watch for ever": {true, 300*time.Second + watchGrace, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, p := newPatience(t.Context(), metav1.ListOptions{TimeoutSeconds: &lasts})
				if tc.answered {
					p.answered()
				}
				<-ctx.Done()
				if got := time.Since(start); got != tc.want || !errors.Is(context.Cause(ctx), tc.cause) {
					t.Errorf("ended after %v by %v, want %v by %v", got, context.Cause(ctx), tc.want, tc.cause)
				}
				if err := p.failed(context.Canceled); errors.Is(err, ErrNoAnswer) == tc.answered {
					t.Errorf("the request's error is %v", err)
				}
			})
		})
	}
}
