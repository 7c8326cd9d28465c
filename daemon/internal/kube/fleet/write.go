package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

const (
	// Finalizer is on each NodeENI that has slots. It is the public controller's.
	Finalizer = "nodeeni.networking.k8s.aws/finalizer"
	// CleanupStart is the annotation with the time at which the controller first saw the deletion (RFC 3339). It is the public controller's.
	CleanupStart = "aws-multi-eni-controller/cleanup-start-time"
	// fieldManager owns the fields that the controller writes.
	fieldManager = "multi-enid-controller"
)

// specTries bounds the tries of WriteSpec while nothing but the status changes.
const specTries = 3

// typed adds the package's error for err.
func typed(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case apierrors.IsNotFound(err), apierrors.IsGone(err):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return err
}

// WriteSpec sets the spec of a node's ENINodeState, and nothing else of it. Seen is the version that the spec was decided on: nil makes the
// object, owned by the Node. It is ErrConflict if the object's spec or status.released is not as seen any more, or it exists already; no other change
// of the status is a conflict.
func (f *Fleet) WriteSpec(ctx context.Context, node string, seen *Object[State], spec v1alpha1.ENINodeStateSpec) error {
	err := f.Fence()
	if err == nil && seen == nil {
		err = f.createState(ctx, node, spec)
	} else if err == nil {
		err = f.patchSpec(ctx, seen, spec)
	}
	if err != nil {
		return fmt.Errorf("write spec of ENINodeState %s: %w", node, err)
	}
	return nil
}

func (f *Fleet) createState(ctx context.Context, node string, spec v1alpha1.ENINodeStateSpec) error {
	owner := f.nodes.get(node)
	if owner == nil {
		return fmt.Errorf("its Node: %w", ErrGone)
	}
	return call(ctx, f.states, f.objects.Post().Resource(v1alpha1.NodeStateResource), v1alpha1.ENINodeState{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.NodeStateKind},
		ObjectMeta: metav1.ObjectMeta{Name: node, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(owner.UID)},
		}},
		Spec: spec,
	})
}

func (f *Fleet) patchSpec(ctx context.Context, seen *Object[State], spec v1alpha1.ENINodeStateSpec) error {
	if seen.Fault != "" {
		return fmt.Errorf("%w: it cannot be read (%s)", ErrRefused, seen.Fault)
	}
	now := f.states.get(seen.Name)
	for try := 1; ; try++ {
		switch {
		case now == nil || now.UID != seen.UID:
			return ErrGone
		case !agrees(now, seen):
			return ErrConflict
		}
		err := call(ctx, f.states, f.merge(v1alpha1.NodeStateResource, seen.Name), map[string]any{
			"metadata": map[string]any{"resourceVersion": now.Version, "uid": now.UID},
			"spec":     map[string]any{"protocol": spec.Protocol, "attachments": slices.Concat([]v1alpha1.AttachmentEntry{}, spec.Attachments)},
		})
		if try == specTries || !errors.Is(err, ErrConflict) {
			return err
		}
		if now, err = f.readState(ctx, seen.Name); err != nil {
			return err
		}
	}
}

// agrees: both are versions of one object with the same spec and status.released.
func agrees(a, b *Object[State]) bool {
	return a.UID == b.UID && a.Generation == b.Generation && a.Fault == "" && slices.Equal(a.Is.Released, b.Is.Released)
}

func (f *Fleet) readState(ctx context.Context, node string) (*Object[State], error) {
	raw, err := f.objects.Get().Resource(v1alpha1.NodeStateResource).Name(node).Do(ctx).Raw()
	if err != nil {
		return nil, typed(err)
	}
	return newObject(raw, readState, nil)
}

// Confirm asks the API server whether spec and status.released of a node's ENINodeState are as seen still; seen is nil if there was none. It is
// ErrConflict if they are not. The informers may be late, so whoever relies on them for good asks first.
func (f *Fleet) Confirm(ctx context.Context, node string, seen *Object[State]) error {
	now, err := f.readState(ctx, node)
	switch {
	case errors.Is(err, ErrGone) && seen == nil:
		return nil
	case errors.Is(err, ErrGone) || err == nil && (seen == nil || !agrees(now, seen)):
		err = ErrConflict
	}
	if err != nil {
		return fmt.Errorf("confirm ENINodeState %s: %w", node, err)
	}
	return nil
}

// WriteStatus sets status.attachments of a NodeENI, and nothing else of it. It is ErrConflict if the NodeENI is not as seen any more.
func (f *Fleet) WriteStatus(ctx context.Context, seen *Object[v1alpha1.NodeENI], attachments []v1alpha1.ENIAttachment) error {
	return f.patchNodeENI(ctx, seen, "status", "write status", map[string]any{
		"status": map[string]any{"attachments": slices.Concat([]v1alpha1.ENIAttachment{}, attachments)},
	})
}

// AddFinalizer adds Finalizer to a NodeENI that has none. It is ErrConflict if the NodeENI is not as seen any more.
func (f *Fleet) AddFinalizer(ctx context.Context, seen *Object[v1alpha1.NodeENI]) error {
	if slices.Contains(seen.Is.Finalizers, Finalizer) {
		return nil
	}
	return f.patchNodeENI(ctx, seen, "", "add finalizer", metadata{"finalizers": slices.Concat(seen.Is.Finalizers, []string{Finalizer})}.body())
}

// RemoveFinalizer takes Finalizer away. It is ErrConflict if the NodeENI is not as seen any more, and nil if it does not exist.
func (f *Fleet) RemoveFinalizer(ctx context.Context, seen *Object[v1alpha1.NodeENI]) error {
	if seen.Known && !slices.Contains(seen.Is.Finalizers, Finalizer) {
		return nil
	}
	rest := slices.DeleteFunc(slices.Concat([]string{}, seen.Is.Finalizers), func(s string) bool { return s == Finalizer })
	err := f.patchNodeENI(ctx, seen, "", "remove finalizer", metadata{"finalizers": rest}.body())
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

// SetCleanupStart sets the annotation CleanupStart, once.
func (f *Fleet) SetCleanupStart(ctx context.Context, seen *Object[v1alpha1.NodeENI], at time.Time) error {
	if seen.Is.Annotations[CleanupStart] != "" {
		return nil
	}
	return f.patchNodeENI(ctx, seen, "", "annotate", metadata{"annotations": map[string]string{CleanupStart: at.UTC().Format(time.RFC3339)}}.body())
}

type metadata map[string]any

func (m metadata) body() map[string]any { return map[string]any{"metadata": map[string]any(m)} }

// patchNodeENI changes what body has, if the NodeENI is as seen.
func (f *Fleet) patchNodeENI(ctx context.Context, seen *Object[v1alpha1.NodeENI], sub, doing string, body map[string]any) error {
	err := f.Fence()
	if err == nil && seen.Fault != "" {
		err = fmt.Errorf("%w: it cannot be read (%s)", ErrRefused, seen.Fault)
	}
	if err == nil {
		meta, _ := body["metadata"].(map[string]any)
		if meta == nil {
			meta = map[string]any{}
			body["metadata"] = meta
		}
		meta["resourceVersion"], meta["uid"] = seen.Version, seen.UID
		request := f.merge("nodeenis", seen.Name)
		if sub != "" {
			request = request.SubResource(sub)
		}
		err = call(ctx, f.nodeENIs, request, body)
	}
	if err != nil {
		return fmt.Errorf("%s of NodeENI %s: %w", doing, seen.Name, err)
	}
	return nil
}

// DeleteState deletes an ENINodeState with that UID. It is nil if there is none of the name, and ErrConflict if there is another.
func (f *Fleet) DeleteState(ctx context.Context, node, uid string) error {
	err := f.Fence()
	if err == nil {
		err = typed(f.objects.Delete().Resource(v1alpha1.NodeStateResource).Name(node).
			Body(&metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(uid)}).Do(ctx).Error())
	}
	if err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("delete ENINodeState %s: %w", node, err)
	}
	return nil
}

func (f *Fleet) merge(resource, name string) *rest.Request {
	return f.objects.Patch(types.MergePatchType).Resource(resource).Name(name)
}

// call sends the body, and puts the answer into the store.
func call[T any](ctx context.Context, s *store[T], request *rest.Request, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	result := request.Param("fieldManager", fieldManager).Body(data).Do(ctx)
	if err := result.Error(); err != nil {
		return typed(err)
	}
	raw, err := result.Raw()
	if err != nil {
		return typed(err)
	}
	return s.answer(raw)
}
