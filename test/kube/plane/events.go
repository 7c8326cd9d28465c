package plane

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// eventsTimeout bounds AwaitEvents. The API server begins to follow a kind at the first watch, and shows changes some two seconds later.
const eventsTimeout = 30 * time.Second

// AwaitEvents waits until the API server shows a watch the changes of a kind at once. It makes an object and deletes it.
func AwaitEvents(ctx context.Context, kind dynamic.ResourceInterface, object *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, eventsTimeout)
	defer cancel()
	w, err := kind.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("watch %s: %w", object.GetKind(), err)
	}
	defer w.Stop()
	if _, err := kind.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create %s: %w", object.GetKind(), err)
	}
	if err := kind.Delete(ctx, object.GetName(), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete %s: %w", object.GetKind(), err)
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			return nil
		}
	}
	return fmt.Errorf("the watch of %s ended without an event", object.GetKind())
}
