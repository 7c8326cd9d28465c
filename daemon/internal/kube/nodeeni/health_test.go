package nodeeni

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

func answer(code int) error {
	reason := map[int]metav1.StatusReason{
		401: metav1.StatusReasonUnauthorized, 403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound,
		410: metav1.StatusReasonExpired, 422: metav1.StatusReasonInvalid, 429: metav1.StatusReasonTooManyRequests,
	}[code]
	return fmt.Errorf("ask: %w", &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(code),
		Reason: reason}}) //nolint:gosec // the codes above
}

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		part part
		err  error
		want string
		says bool
	}{
		{partNodeENIs, nil, "", true},
		{partNodeENIs, errors.New("dial tcp: connection refused"), "Unreachable", true},
		{partNodeENIs, client.ErrNoAnswer, "Unreachable", true},
		{partNodeENIs, errMalformed, "Unreachable", true},
		{partNodeENIs, answer(http.StatusTooManyRequests), "Unreachable", true},
		{partNodeENIs, answer(http.StatusUnauthorized), "Unauthorized", true},
		{partNodeENIs, answer(http.StatusForbidden), "Forbidden", true},
		{partNodeENIs, answer(http.StatusNotFound), "NoCRD", true},
		{partNodes, answer(http.StatusNotFound), "Unreachable", true},
		{partOwnNode, errNoNode, "NoNode", true},
		{partNodeENIs, answer(http.StatusGone), "", false},
		{partNodeENIs, client.WatchError(answer(http.StatusUnprocessableEntity), true), "", false},
		{partNodeENIs, client.WatchError(answer(http.StatusUnprocessableEntity), false), "Unreachable", true},
	} {
		if f, says := classify(tc.part, tc.err); string(f.reason) != tc.want || says != tc.says {
			t.Errorf("part %d, %v: %q, %t; want %q, %t", tc.part, tc.err, f.reason, says, tc.want, tc.says)
		}
	}
}

// step is an answer after a wait.
type step struct {
	after time.Duration
	part  part
	err   error
}

func TestHealthSaysEachStateOnce(t *testing.T) {
	refused := errors.New("refused")
	up := []step{{0, partNodeENIs, nil}, {0, partNodes, nil}}
	repeat := func(n int, s ...step) []step { return slices.Repeat(s, n) }
	for name, tc := range map[string]struct {
		steps []step
		want  []string
	}{
		"well from the start": {up, nil},
		"never answered":      {repeat(50, step{time.Minute, partNodeENIs, refused}), []string{"Unreachable"}},
		"an outage": {
			slices.Concat(up, repeat(30, step{time.Minute, partNodeENIs, refused}, step{time.Second, partNodes, refused}),
				[]step{{time.Second, partNodes, nil}, {time.Second, partNodeENIs, nil}}),
			[]string{"Unreachable", "again after 29m32s"},
		},
		"a blink": {
			slices.Concat(up, repeat(10, step{time.Minute, partNodeENIs, refused}, step{time.Second, partNodeENIs, nil})), nil,
		},
		"an API server that restarts": {
			slices.Concat(up, []step{
				{time.Minute, partNodeENIs, refused}, {5 * time.Second, partNodeENIs, answer(401)}, {time.Second, partNodeENIs, answer(403)},
				{time.Second, partNodeENIs, answer(404)}, {time.Second, partNodeENIs, nil},
			}),
			[]string{"Unreachable", "again after 8s"},
		},
		"one that comes and goes": {
			slices.Concat(up, repeat(20, step{time.Second, partNodeENIs, refused}, step{time.Second, partNodeENIs, nil})),
			[]string{"Unreachable", "again after 39s"},
		},
		"one trouble after another": {
			slices.Concat(up, []step{
				{0, partNodeENIs, answer(404)}, {time.Minute, partNodeENIs, answer(403)}, {time.Minute, partNodeENIs, nil},
				{time.Minute, partOwnNode, errNoNode}, {time.Minute, partOwnNode, nil},
			}),
			[]string{"NoCRD", "Forbidden", "again after 2m0s", "NoNode", "again after 1m0s"},
		},
		"one watch alone": {
			slices.Concat(up, []step{{0, partNodes, answer(403)}, {time.Minute, partNodeENIs, nil}, {time.Minute, partNodes, nil}}),
			[]string{"Forbidden", "again after 2m0s"},
		},
		"versions forgotten": {slices.Concat(up, repeat(50, step{time.Minute, partNodeENIs, answer(410)})), nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, hook := logtest.NewNullLogger()
				h := newHealth(time.Now, log)
				ctx, cancel := context.WithCancel(t.Context())
				go h.run(ctx)
				for _, s := range tc.steps {
					time.Sleep(s.after)
					h.report(s.part, s.err)
				}
				time.Sleep(time.Hour)
				cancel()
				synctest.Wait()
				var got []string
				for _, e := range hook.AllEntries() {
					if after, ok := e.Data["after"].(time.Duration); ok {
						got = append(got, "again after "+after.String())
					} else {
						got = append(got, fmt.Sprint(e.Data["reason"]))
					}
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("said (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestRecoveryIsNews tells the end of a trouble once, in any part, and a healthy start not at all.
func TestRecoveryIsNews(t *testing.T) {
	h := newHealth(time.Now, fakekube.Quiet())
	news := 0
	h.recovered = func() {
		h.get() // it may ask
		news++
	}
	for i, tc := range []struct {
		part part
		err  error
		want int
	}{
		{partNodeENIs, nil, 0},
		{partNodes, nil, 0}, // followed from here on
		{partNodes, answer(410), 0},
		{partNodes, client.ErrNoAnswer, 0},
		{partNodeENIs, answer(403), 0},
		{partNodes, nil, 0},
		{partNodeENIs, nil, 1},
		{partNodeENIs, nil, 1},
		{partOwnNode, errNoNode, 1},
		{partOwnNode, nil, 2},
	} {
		if h.report(tc.part, tc.err); news != tc.want {
			t.Errorf("after answer %d: %d times news, want %d", i, news, tc.want)
		}
	}
	late := newHealth(time.Now, fakekube.Quiet())
	late.recovered = func() { news++ }
	late.report(partNodeENIs, client.ErrNoAnswer) // away at the start
	late.report(partNodeENIs, nil)
	late.report(partNodes, nil)
	if news != 3 {
		t.Error("the end of a trouble at the start is no news")
	}
}
