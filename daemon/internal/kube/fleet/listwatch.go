package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
)

// pageSize is how many objects a page of a list has: a NodeENI attached on 500 nodes has 200 kB.
const pageSize = 100

// errMalformed: an answer is not of the API server's shape.
var errMalformed = errors.New("malformed answer")

// source names a kind at the API server.
type source struct {
	client                         rest.Interface
	resource, apiVersion, kindName string
}

func (s source) request(opts metav1.ListOptions) *rest.Request {
	return s.client.Get().Resource(s.resource).SetHeader("Accept", runtime.ContentTypeJSON).
		SpecificallyVersionedParams(&opts, metav1.ParameterCodec, schema.GroupVersion{Version: "v1"})
}

// listWatch lists and watches a kind, and trims each object when it arrives. An object that cannot be read fails nothing.
type listWatch[T any] struct {
	source
	read   func(raw []byte, meta *metav1.ObjectMeta) (T, error)
	report func(error)
}

// item is an Object for a reflector, which looks at its metadata only: name, resource version, and a bookmark's annotations.
type item[T any] struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	object *Object[T]
}

// DeepCopyObject shares the Object, which is never changed.
func (i *item[T]) DeepCopyObject() runtime.Object {
	out := &item[T]{TypeMeta: i.TypeMeta, object: i.object}
	i.DeepCopyInto(&out.ObjectMeta)
	return out
}

type itemList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject is not needed by a reflector.
func (l *itemList) DeepCopyObject() runtime.Object {
	out := *l
	return &out
}

func (l listWatch[T]) item(raw []byte) (*item[T], error) {
	o, err := newObject(raw, l.read, nil)
	if err == nil && o.Name == "" {
		err = errors.New("an object without name")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return &item[T]{ObjectMeta: metav1.ObjectMeta{Name: o.Name, ResourceVersion: o.Version}, object: o}, nil
}

// list is always a quorum read.
func (l listWatch[T]) list(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	return client.ListAgain(ctx, l.report, l.pages)
}

func (l listWatch[T]) pages(ctx context.Context) (*itemList, error) {
	all := &itemList{}
	for {
		page, err := l.page(ctx, metav1.ListOptions{Limit: pageSize, Continue: all.Continue})
		if err != nil {
			return nil, err
		}
		all.ListMeta, all.Items = page.ListMeta, append(all.Items, page.Items...)
		if all.Continue == "" {
			return all, nil
		}
	}
}

func (l listWatch[T]) page(ctx context.Context, opts metav1.ListOptions) (*itemList, error) {
	ctx, cancel := context.WithTimeout(ctx, client.ListTimeout)
	defer cancel()
	result := l.request(opts).Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	body, err := result.Raw()
	if err != nil {
		return nil, err
	}
	var page struct {
		metav1.TypeMeta
		Metadata metav1.ListMeta    `json:"metadata"`
		Items    *[]json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &page); err != nil {
		return nil, fmt.Errorf("read list of %s: %w: %w", l.resource, errMalformed, err)
	}
	// An answer of another shape must not look like an empty list, the removal of everything.
	if page.APIVersion != l.apiVersion || page.Kind != l.kindName+"List" || page.Items == nil || page.Metadata.ResourceVersion == "" {
		return nil, fmt.Errorf("read list of %s: %w: apiVersion %q, kind %q is not a whole list", l.resource, errMalformed, page.APIVersion, page.Kind)
	}
	out := &itemList{ListMeta: page.Metadata}
	for _, raw := range *page.Items {
		i, err := l.item(raw)
		if err != nil {
			return nil, fmt.Errorf("read list of %s: %w", l.resource, err)
		}
		out.Items = append(out.Items, i)
	}
	return out, nil
}

func (l listWatch[T]) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	body, p, err := client.Watch(ctx, opts, l.report, func(ctx context.Context, opts metav1.ListOptions) (io.ReadCloser, error) {
		return l.request(opts).Stream(ctx)
	})
	if err != nil {
		return nil, err
	}
	events := json.NewDecoder(body)
	return p.Events(body, func() (watch.EventType, runtime.Object, error) {
		var event struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			return "", nil, err
		}
		o, err := l.object(event.Type, event.Object)
		if err != nil {
			err = fmt.Errorf("read event of %s: %w", l.resource, err)
			l.report(err)
			return "", nil, err
		}
		return event.Type, o, nil
	}), nil
}

// object reads the object of an event.
func (l listWatch[T]) object(kind watch.EventType, raw []byte) (runtime.Object, error) {
	switch kind {
	case watch.Added, watch.Modified, watch.Deleted:
		return l.item(raw)
	case watch.Bookmark:
		meta, err := readMeta(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, err)
		}
		return &item[T]{ObjectMeta: metav1.ObjectMeta{ResourceVersion: meta.ResourceVersion, Annotations: meta.Annotations}}, nil
	case watch.Error:
		var status metav1.Status
		if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &status); err != nil {
			return nil, fmt.Errorf("%w: status: %w", errMalformed, err)
		}
		return &status, nil
	default:
		return nil, fmt.Errorf("%w: event of type %q", errMalformed, kind)
	}
}
