package report

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	objectmeta "k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// stateWatch watches the metadata of this node's ENINodeState only. It costs no request while nothing happens.
type stateWatch struct {
	client objectmeta.Interface
	name   string
	report func(error)
	// lost is called when the object is gone, or may have been for a moment.
	lost func()
}

func (o stateWatch) listWatch() *cache.ListWatch {
	return &cache.ListWatch{ListWithContextFunc: o.list, WatchFuncWithContext: o.watch}
}

func (o stateWatch) objects() objectmeta.ResourceInterface {
	return o.client.Resource(schema.GroupVersionResource{Group: v1alpha1.GroupName, Version: v1alpha1.Version, Resource: v1alpha1.NodeStateResource})
}

func (o stateWatch) selector() string {
	return fields.OneTermEqualSelector(metav1.ObjectNameField, o.name).String()
}

func (o stateWatch) list(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	bounded, cancel := context.WithTimeout(ctx, client.ListTimeout)
	defer cancel()
	list, err := o.objects().List(bounded, metav1.ListOptions{FieldSelector: o.selector()})
	if err != nil {
		o.report(err)
		return nil, err
	}
	return list, nil
}

func (o stateWatch) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	opts.FieldSelector = o.selector()
	w, p, err := client.Watch(ctx, opts, o.report, o.objects().Watch)
	if err != nil {
		return nil, err
	}
	return p.Bound(w), nil
}

func (o stateWatch) Add(any) error { return nil }

func (o stateWatch) Update(any) error { return nil }

func (o stateWatch) Delete(any) error {
	o.lost()
	return nil
}

func (o stateWatch) Replace(all []any, _ string) error {
	if len(all) == 0 {
		o.lost()
	}
	return nil
}

func (o stateWatch) Resync() error { return nil }

// remakeApart is the least time between two looks, so that repeated deletions do not keep the daemon busy.
const remakeApart = 10 * time.Second

func (r *Reporter) followState(ctx context.Context) {
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.gone:
				signal(r.deleted)
			}
			if !backoff.Sleep(ctx, remakeApart) {
				return
			}
		}
	}()
	if r.Reported != nil { // somebody else watches it
		return
	}
	retry := client.NewRetry()
	said := watchSpell{log: r.Log.WithField("object", "ENINodeState")}
	own := stateWatch{client: r.watch, name: r.state.name, report: said.report, lost: func() { r.Gone() }}
	cache.NewReflectorWithOptions(own.listWatch(), &metav1.PartialObjectMetadata{}, own, cache.ReflectorOptions{
		Name: "eninodestate", TypeDescription: "ENINodeState", Backoff: &retry,
	}).RunWithContext(ctx)
}

// deniedTimes is how many denials in a row are logged: a starting API server denies everything until it has read its roles.
const deniedTimes = 5

// watchSpell logs once that the ENINodeState may not be watched, and the end of that. The object's writer and the watch of the NodeENIs
// log other troubles.
type watchSpell struct {
	log    logrus.FieldLogger
	denied int
}

func (s *watchSpell) report(err error) {
	switch {
	case apierrors.IsForbidden(err):
		if s.denied++; s.denied == deniedTimes {
			s.log.WithError(err).Warn("ENINodeState cannot be watched; after it was deleted it comes back at the next change only, grant what deploy/rbac.yaml has")
		}
	case err == nil:
		if s.denied >= deniedTimes {
			s.log.Info("ENINodeState is watched again")
		}
		s.denied = 0
	}
}
