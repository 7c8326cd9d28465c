package client

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var stateType = metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.NodeStateKind}

// CreateState is the daemon's request that makes the ENINodeState of a node.
func CreateState(c rest.Interface, name string, owners ...metav1.OwnerReference) (*rest.Request, error) {
	body, err := json.Marshal(metav1.PartialObjectMetadata{TypeMeta: stateType, ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}})
	if err != nil {
		return nil, fmt.Errorf("encode ENINodeState: %w", err)
	}
	return c.Post().Resource(v1alpha1.NodeStateResource).Param("fieldManager", FieldManager).Body(body), nil
}

// ApplyState is the daemon's request that sets the status of an ENINodeState.
func ApplyState(c rest.Interface, name string, status v1alpha1.ENINodeStateStatus) (*rest.Request, error) {
	body, err := json.Marshal(v1alpha1.ENINodeState{TypeMeta: stateType, ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status})
	if err != nil {
		return nil, fmt.Errorf("encode ENINodeState: %w", err)
	}
	return c.Patch(types.ApplyPatchType).Resource(v1alpha1.NodeStateResource).Name(name).SubResource("status").
		Param("fieldManager", FieldManager).Param("force", "true").Body(body), nil
}
