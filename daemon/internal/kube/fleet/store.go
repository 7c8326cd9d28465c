package fleet

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
)

// aheadFor bounds how long the answer to an own write is kept against older news of the watch. Only versions that begin anew, as after a restore of
// etcd, make such news right.
const aheadFor = 5 * time.Minute

// store has all objects of a kind. It is a reflector's store.
//
// The answer to an own write is in it at once. News that the watch sends later, but that are older, do not undo it.
type store[T any] struct {
	kind    string
	read    func(raw []byte, meta *metav1.ObjectMeta) (T, error)
	changed func(name string)
	now     func() time.Time
	log     logrus.FieldLogger

	mu      sync.Mutex
	objects map[string]*Object[T] // nil until read as a whole
	// ahead has the objects that are answers to own writes, newer than seen, and until when they count.
	ahead map[string]time.Time
	// seen is the newest resourceVersion that the watch has sent; "" before any.
	seen string
	// err is the last failure to list or watch; nil after a success. said: it was logged.
	err  error
	said bool
}

func newStore[T any](kind string, o Options, read func([]byte, *metav1.ObjectMeta) (T, error), changed func(string)) *store[T] {
	return &store[T]{kind: kind, read: read, changed: changed, now: o.Now, log: o.Log.WithField("object", kind), ahead: map[string]time.Time{}}
}

func (s *store[T]) all() map[string]*Object[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.objects)
}

func (s *store[T]) get(name string) *Object[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[name]
}

func (s *store[T]) unread() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.objects != nil:
		return nil
	case s.err != nil:
		return fmt.Errorf("%ss: %w: %w", s.kind, ErrUnknown, s.err)
	}
	return fmt.Errorf("%ss: %w", s.kind, ErrUnknown)
}

func (s *store[T]) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// report notes how a list or watch ended. The first of several failures is logged, and the end of them.
func (s *store[T]) report(err error) {
	if errors.Is(err, client.ErrNoNews) {
		return
	}
	s.mu.Lock()
	before := s.said
	s.err, s.said = typed(err), err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !before:
		s.log.WithError(err).Warn("objects cannot be read; all stays as it was last known")
	case err == nil && before:
		s.log.Info("objects are read again")
	}
}

// Add is Update.
func (s *store[T]) Add(o any) error { return s.Update(o) }

// Update takes an object of a watch event.
func (s *store[T]) Update(o any) error {
	i, err := s.item(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	news := s.update(i.object)
	s.seen = i.object.Version
	s.mu.Unlock()
	if news {
		s.changed(i.Name)
	}
	return nil
}

// update says whether the object is news. Hold mu.
func (s *store[T]) update(o *Object[T]) bool {
	before := s.objects[o.Name]
	if s.isAhead(o.Name, o.Version) {
		return false
	}
	delete(s.ahead, o.Name)
	o.keep(before)
	s.objects[o.Name] = o
	return before == nil || !before.same(o)
}

// isAhead: the object is the answer to an own write that is newer than version. Hold mu.
func (s *store[T]) isAhead(name, version string) bool {
	until, ok := s.ahead[name]
	return ok && s.now().Before(until) && newer(s.objects[name].Version, version)
}

// Delete takes an object that is gone.
func (s *store[T]) Delete(o any) error {
	i, err := s.item(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	gone := s.objects[i.Name] != nil && !s.isAhead(i.Name, i.object.Version)
	if gone {
		delete(s.ahead, i.Name)
		delete(s.objects, i.Name)
	}
	s.seen = i.object.Version
	s.mu.Unlock()
	if gone {
		s.changed(i.Name)
	}
	return nil
}

// Replace takes a whole list.
func (s *store[T]) Replace(all []any, version string) error {
	items := make([]*item[T], len(all))
	for n, o := range all {
		i, err := s.item(o)
		if err != nil {
			return err
		}
		items[n] = i
	}
	s.report(nil)
	for _, name := range s.replace(items, version) {
		s.changed(name)
	}
	return nil
}

func (s *store[T]) replace(items []*item[T], version string) (news []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.objects
	if before == nil {
		before = map[string]*Object[T]{}
	}
	after := make(map[string]*Object[T], len(items))
	for _, i := range items {
		i.object.keep(before[i.Name])
		after[i.Name] = i.object
	}
	for name := range s.ahead {
		if s.isAhead(name, version) {
			after[name] = before[name]
		} else {
			delete(s.ahead, name)
		}
	}
	for name, o := range after {
		if was := before[name]; was == nil || !was.same(o) {
			news = append(news, name)
		}
	}
	for name := range before {
		if after[name] == nil {
			news = append(news, name)
		}
	}
	s.objects, s.seen = after, version
	return news
}

// Bookmark notes how far the watch has come.
func (s *store[T]) Bookmark(version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = version
	return nil
}

// Resync does nothing.
func (*store[T]) Resync() error { return nil }

// answer takes the object that the API server returned for an own write, unless the watch is ahead of it already.
func (s *store[T]) answer(raw []byte) error {
	o, err := newObject(raw, s.read, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	s.mu.Lock()
	news := false
	if s.objects != nil && newer(o.Version, s.seen) {
		if news = s.update(o); s.objects[o.Name] == o {
			s.ahead[o.Name] = s.now().Add(aheadFor)
		}
	}
	s.mu.Unlock()
	if news {
		s.changed(o.Name)
	}
	return nil
}

func (s *store[T]) item(o any) (*item[T], error) {
	i, ok := o.(*item[T])
	if !ok {
		return nil, fmt.Errorf("%w: %T instead of a %s", errMalformed, o, s.kind)
	}
	return i, nil
}

// newer compares resource versions. One that is no number counts as not newer: the watch then decides.
func newer(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c > 0
}
