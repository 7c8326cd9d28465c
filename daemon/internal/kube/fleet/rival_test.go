package fleet

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

func leaseOf(namespace, holder string, renewed time.Time) *coordinationv1.Lease {
	lasts, at := int32(15), metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: LeaseName},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &lasts, RenewTime: &at},
	}
}

func TestRival(t *testing.T) {
	mine, theirs := holderPrefix+"pod_1", "eni-controller_1"
	public := &Rival{Namespace: "eni-controller-system", Holder: theirs}
	type at struct {
		after time.Duration
		// lease is nil for an unchanged one.
		lease *coordinationv1.Lease
		want  *Rival
	}
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // synctest's
	for name, steps := range map[string][]at{
		"none":         {{}},
		"ours":         {{lease: leaseOf("own", mine, start)}},
		"another ours": {{lease: leaseOf("other", mine, start), want: &Rival{"other", mine}}},
		"not ours":     {{lease: leaseOf("own", theirs, start), want: &Rival{"own", theirs}}},
		"given back":   {{lease: leaseOf(public.Namespace, "", start)}},
		"alive": {{lease: leaseOf(public.Namespace, theirs, start), want: public},
			{after: 14 * time.Second, lease: leaseOf(public.Namespace, theirs, start.Add(time.Second)), want: public}, {after: 14 * time.Second, want: public}},
		"dies":            {{lease: leaseOf(public.Namespace, theirs, start), want: public}, {after: 14 * time.Second, want: public}, {after: 2 * time.Second}},
		"clock is behind": {{lease: leaseOf(public.Namespace, theirs, start.Add(-time.Minute)), want: public}, {after: 16 * time.Second}},
		"clock is ahead":  {{lease: leaseOf(public.Namespace, theirs, start.Add(time.Hour)), want: public}, {after: 16 * time.Second}},
		"left behind":     {{lease: leaseOf(public.Namespace, theirs, start.Add(-time.Hour))}},
		"left and revived": {{lease: leaseOf(public.Namespace, theirs, start.Add(-time.Hour))},
			{after: time.Second, lease: leaseOf(public.Namespace, theirs, start), want: public}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newAPIServer(t, true)
				f := connect(t, s.direct())
				for n, step := range steps {
					time.Sleep(step.after)
					if step.lease != nil {
						s.leases[step.lease.Namespace] = step.lease
					}
					got, err := f.Rival(t.Context())
					if diff := cmp.Diff(step.want, got); diff != "" || err != nil {
						t.Errorf("step %d: %v (-want +got):\n%s", n, err, diff)
					}
				}
			})
		})
	}
}

// TestRivalUnknown: without the right to list Leases nobody knows.
func TestRivalUnknown(t *testing.T) {
	s := newAPIServer(t, true)
	f := connect(t, s.direct())
	for code, want := range map[int]error{http.StatusForbidden: ErrForbidden, http.StatusInternalServerError: nil} {
		s.refuse = func(w http.ResponseWriter, _ *http.Request) bool { fakekube.Refuse(w, code); return true }
		got, err := f.Rival(t.Context())
		if got != nil || err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%d: %v, %v", code, got, err)
		}
	}
}
