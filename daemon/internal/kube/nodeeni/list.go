package nodeeni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// How many NodeENIs one page has: few at first, then as many as are likely to fit into pageSize octets. One attached on 500 nodes has 200 kB.
const (
	firstPage   = 10
	largestPage = 500
	pageSize    = 1 << 20
)

// nodeENIs lists and watches the NodeENIs, or the own ENINodeState, and trims them while they arrive: no whole list or event is ever in memory.
type nodeENIs struct {
	client rest.Interface
	trim   trimmer
	report func(error)
}

func (n nodeENIs) listWatch() *cache.ListWatch {
	return &cache.ListWatch{ListWithContextFunc: n.list, WatchFuncWithContext: n.watch}
}

type itemList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

func (l *itemList) DeepCopyObject() runtime.Object {
	out := &itemList{TypeMeta: l.TypeMeta, ListMeta: l.ListMeta, Items: make([]runtime.Object, len(l.Items))}
	for i, o := range l.Items {
		out.Items[i] = o.DeepCopyObject()
	}
	return out
}

// list reads all NodeENIs. It is always a quorum read: a cached version may be older than the one known before a restart of the daemon.
func (n nodeENIs) list(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	return client.ListAgain(ctx, n.report, n.pages)
}

func (n nodeENIs) pages(ctx context.Context) (*itemList, error) {
	all := &itemList{}
	for limit := int64(firstPage); ; {
		page, size, err := n.page(ctx, metav1.ListOptions{Limit: limit, Continue: all.Continue})
		if err != nil {
			return nil, err
		}
		all.ListMeta, all.Items = page.ListMeta, append(all.Items, page.Items...)
		if all.Continue == "" {
			return all, nil
		}
		limit = min(max(pageSize*int64(len(page.Items))/int64(size), 1), largestPage)
	}
}

// page also returns the page's size in bytes.
func (n nodeENIs) page(ctx context.Context, opts metav1.ListOptions) (*itemList, int, error) {
	ctx, cancel := context.WithTimeout(ctx, client.ListTimeout)
	defer cancel()
	stream, err := n.stream(ctx, opts)
	if err != nil {
		return nil, 0, err
	}
	defer stream.Close() //nolint:errcheck // opened for reading only
	a := newReader(stream, 0)
	list, err := n.trim.list(a)
	if err != nil {
		return nil, 0, fmt.Errorf("read list of NodeENIs: %w", err)
	}
	return list, a.body.n, nil
}

func (n nodeENIs) request(opts metav1.ListOptions) *rest.Request {
	resource, _, _ := n.trim.kinds()
	if n.trim.state {
		opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.trim.node).String()
	}
	return n.client.Get().Resource(resource).
		SpecificallyVersionedParams(&opts, metav1.ParameterCodec, schema.GroupVersion{Version: "v1"})
}

// list reads one page. An answer of another shape is an error: an empty list would be the removal of everything.
func (t trimmer) list(a *reader) (*itemList, error) {
	var out itemList
	var meta []byte
	complete := false
	err := a.object(func(key []byte) (err error) {
		switch string(key) {
		case `"apiVersion"`:
			out.APIVersion, err = a.text()
		case `"kind"`:
			out.Kind, err = a.text()
		case `"metadata"`:
			meta, err = a.value()
		case `"items"`:
			complete = true
			err = a.list('[', func() error {
				o, err := t.object(a)
				if err == nil && o.Name == "" {
					err = a.malformed("an object with a name")
				}
				out.Items = append(out.Items, o)
				return err
			})
		default:
			err = a.SkipValue()
		}
		return err
	})
	if err == nil {
		if _, err = a.ReadToken(); err == nil {
			err = a.malformed("the end")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		if err = a.fault(err); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", errMalformed, err)
		}
		return nil, err
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(meta, &out.ListMeta); err != nil {
		return nil, fmt.Errorf("%w: metadata: %w", errMalformed, err)
	}
	if _, _, kind := t.kinds(); out.APIVersion != v1alpha1.APIVersion || out.Kind != kind || !complete || out.ResourceVersion == "" {
		return nil, fmt.Errorf("%w: apiVersion %q, kind %q is not a whole %s", errMalformed, out.APIVersion, out.Kind, kind)
	}
	return &out, nil
}

func (n nodeENIs) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	body, p, err := client.Watch(ctx, opts, n.report, n.stream)
	if err != nil {
		return nil, err
	}
	events := newReader(body, maxEventBytes)
	return p.Events(body, func() (watch.EventType, runtime.Object, error) {
		events.more()
		kind, o, err := n.trim.event(events)
		return kind, o, n.failed(err)
	}), nil
}

func (n nodeENIs) stream(ctx context.Context, opts metav1.ListOptions) (io.ReadCloser, error) {
	return n.request(opts).Stream(ctx)
}

// failed reports a malformed event.
func (n nodeENIs) failed(err error) error {
	if errors.Is(err, errMalformed) {
		err = fmt.Errorf("read event of NodeENIs: %w", err)
		n.report(err)
	}
	return err
}

// event reads one event; io.EOF after the last.
func (t trimmer) event(a *reader) (watch.EventType, runtime.Object, error) {
	var kind watch.EventType
	var o *item
	var body []byte
	err := a.object(func(key []byte) (err error) {
		switch string(key) {
		case `"type"`:
			var text string
			text, err = a.text()
			kind = watch.EventType(text)
		case `"object"`:
			if isObject(kind) {
				o, err = t.object(a)
			} else {
				body, err = a.value()
			}
		default:
			err = a.SkipValue()
		}
		return err
	})
	if err != nil {
		return "", nil, a.fault(err)
	}
	if o == nil && isObject(kind) { // its type came last, or it has none
		inner := newReader(bytes.NewReader(body), 0)
		if o, err = t.object(inner); err != nil {
			return "", nil, fmt.Errorf("%w: object: %w", errMalformed, err)
		}
	}
	_, want, _ := t.kinds()
	switch {
	case kind == watch.Error:
		var status metav1.Status
		if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &status); err != nil {
			return "", nil, fmt.Errorf("%w: status: %w", errMalformed, err)
		}
		return kind, &status, nil
	case !isObject(kind):
		return "", nil, fmt.Errorf("%w: event of type %q", errMalformed, kind)
	case o.APIVersion != v1alpha1.APIVersion || o.Kind != want || o.Name == "" && kind != watch.Bookmark:
		return "", nil, fmt.Errorf("%w: apiVersion %q, kind %q, name %q is not of kind %s", errMalformed, o.APIVersion, o.Kind, o.Name, want)
	}
	return kind, o, nil
}

func isObject(t watch.EventType) bool {
	return t == watch.Added || t == watch.Modified || t == watch.Deleted || t == watch.Bookmark
}
