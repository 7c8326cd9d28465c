package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// longAgo is when a Lease seen for the first time counts as left behind, by the clock on the wall.
const longAgo = 10 * time.Minute

// Rival is another controller that may write.
type Rival struct {
	Namespace, Holder string
}

// String names its Lease.
func (r *Rival) String() string {
	return "the Lease " + r.Namespace + "/" + LeaseName + " is held by " + r.Holder
}

// rivals remembers the Leases, since their freshness is judged by our own clock, not by their times.
type rivals struct {
	mu sync.Mutex
	// seen is by namespace.
	seen map[string]sighting
	// denied: that the Leases may not be listed was logged.
	denied bool
}

type sighting struct {
	holder  string
	renewed time.Time
	// since is when this process first saw both.
	since time.Time
}

// Rival returns another controller that holds a fresh Lease named LeaseName: one in another namespace, or one in this namespace that is no
// multi-enid controller. It is nil if there is none. An error means that nobody knows; it is ErrForbidden without the right to list Leases,
// which is also logged once.
func (f *Fleet) Rival(ctx context.Context) (*Rival, error) {
	list, err := f.core.CoordinationV1().Leases(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, LeaseName).String(),
	})
	err = typed(err)
	f.rivals.mu.Lock()
	defer f.rivals.mu.Unlock()
	if errors.Is(err, ErrForbidden) && !f.rivals.denied {
		f.rivals.denied = true
		f.options.Log.WithError(err).Warn("whether another controller runs is not known: grant list of leases, as deploy/components/controller does")
	}
	if err != nil {
		return nil, fmt.Errorf("look for another controller: %w", err)
	}
	f.rivals.denied = false
	return f.rivals.judge(list.Items, f.options.Namespace, f.options.Now()), nil
}

// Leader returns the holder of the Lease in this namespace, "" for nobody, and when it renewed that last by its own clock.
func (f *Fleet) Leader(ctx context.Context) (holder string, renewed time.Time, err error) {
	l, err := f.core.CoordinationV1().Leases(f.options.Namespace).Get(ctx, LeaseName, metav1.GetOptions{})
	if err != nil {
		if err = typed(err); errors.Is(err, ErrGone) {
			return "", time.Time{}, nil
		}
		return "", time.Time{}, fmt.Errorf("read the Lease %s/%s: %w", f.options.Namespace, LeaseName, err)
	}
	if l.Spec.HolderIdentity != nil {
		holder = *l.Spec.HolderIdentity
	}
	if l.Spec.RenewTime != nil {
		renewed = l.Spec.RenewTime.Time
	}
	return holder, renewed, nil
}

// judge returns the first rival. Hold mu.
func (r *rivals) judge(leases []coordinationv1.Lease, own string, now time.Time) (found *Rival) {
	before := r.seen
	r.seen = map[string]sighting{}
	for i := range leases {
		l := &leases[i]
		holder, lasts, renewed := l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime
		if holder == nil || *holder == "" || lasts == nil || renewed == nil || l.Namespace == own && ours(*holder) {
			continue
		}
		s := sighting{holder: *holder, renewed: renewed.Time, since: now}
		if was, ok := before[l.Namespace]; ok && was.holder == s.holder && was.renewed.Equal(s.renewed) {
			s.since = was.since
		} else if !ok && now.Sub(s.renewed) > longAgo {
			s.since = s.renewed
		}
		r.seen[l.Namespace] = s
		if found == nil && now.Sub(s.since) < time.Duration(*lasts)*time.Second {
			found = &Rival{Namespace: l.Namespace, Holder: s.holder}
		}
	}
	return found
}
