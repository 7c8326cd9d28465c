package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var (
	// errNoStateCRD: the API server does not know ENINodeStates.
	errNoStateCRD = errors.New("the API server does not know ENINodeStates; apply deploy/crd")
	// errOtherOwner: the object belongs to an earlier Node of this name.
	errOtherOwner = errors.New("it belongs to an earlier Node of this name; it is made anew when the garbage collector has deleted it")
)

// stateWriter writes one node's ENINodeState. It must not be used concurrently.
type stateWriter struct {
	client rest.Interface
	name   string
	// exists: the object was there last. owner is its Node; "" for none.
	exists bool
	owner  types.UID
}

// belongs says whether the object exists and goes with the Node. An object made without an owner counts too.
func (w *stateWriter) belongs(node client.NodeRef) bool {
	return w.exists && (w.owner == "" || w.owner == node.UID)
}

// read returns the object's status; the zero value if it does not exist.
func (w *stateWriter) read(ctx context.Context) (v1alpha1.ENINodeStateStatus, error) {
	body, err := w.client.Get().Resource(v1alpha1.NodeStateResource).Name(w.name).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		w.exists, w.owner = false, ""
		return v1alpha1.ENINodeStateStatus{}, nil
	}
	if err != nil {
		return v1alpha1.ENINodeStateStatus{}, fmt.Errorf("read ENINodeState: %w", err)
	}
	var s v1alpha1.ENINodeState
	if err := json.Unmarshal(body, &s); err != nil {
		// Another version or writer: write it anew.
		s = v1alpha1.ENINodeState{}
	}
	w.exists, w.owner = true, ""
	for _, o := range s.OwnerReferences {
		if o.APIVersion == "v1" && o.Kind == "Node" {
			w.owner = o.UID
		}
	}
	return s.Status, nil
}

// write sets the object's status, and creates the object if needed.
func (w *stateWriter) write(ctx context.Context, node client.NodeRef, status v1alpha1.ENINodeStateStatus) error {
	if !w.belongs(node) {
		if err := w.create(ctx, node); err != nil {
			return err
		}
	}
	err := w.apply(ctx, status)
	if !apierrors.IsNotFound(err) {
		return err
	}
	w.exists = false // deleted since
	if err := w.create(ctx, node); err != nil {
		return err
	}
	return w.apply(ctx, status)
}

func (w *stateWriter) create(ctx context.Context, node client.NodeRef) error {
	request, err := client.CreateState(w.client, w.name, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID})
	if err != nil {
		return err
	}
	err = request.Do(ctx).Error()
	switch {
	case err == nil:
		w.exists, w.owner = true, node.UID
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("create ENINodeState: %w", errNoStateCRD)
	case !apierrors.IsAlreadyExists(err):
		return fmt.Errorf("create ENINodeState: %w", err)
	}
	if _, err := w.read(ctx); err != nil {
		return err
	}
	if w.exists && !w.belongs(node) {
		return fmt.Errorf("create ENINodeState: %w", errOtherOwner)
	}
	return nil
}

func (w *stateWriter) apply(ctx context.Context, status v1alpha1.ENINodeStateStatus) error {
	request, err := client.ApplyState(w.client, w.name, status)
	if err != nil {
		return err
	}
	if err := request.Do(ctx).Error(); err != nil {
		return fmt.Errorf("apply status of ENINodeState: %w", err)
	}
	return nil
}
