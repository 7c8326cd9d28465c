package cluster

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

func ours(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "networking.k8s.aws", Version: "v1alpha1", Resource: plural}
}

// NodeENIs is the API for NodeENIs, as an administrator.
func (c *Cluster) NodeENIs() dynamic.ResourceInterface { return c.Dynamic.Resource(ours("nodeenis")) }

// ENINodeStates is the API for ENINodeStates, as an administrator.
func (c *Cluster) ENINodeStates() dynamic.ResourceInterface {
	return c.Dynamic.Resource(ours("eninodestates"))
}

// NodeState is a node's ENINodeState.
func (c *Cluster) NodeState(t testing.TB, node string) (s v1alpha1.ENINodeState, err error) {
	t.Helper()
	o, err := c.ENINodeStates().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	return s, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s)
}

// CreateNodeENI makes a NodeENI, and then sets its status as the attaching controller does. A missing
// nodeSelector becomes the empty one, which selects every node: the API server requires one.
func (c *Cluster) CreateNodeENI(t testing.TB, o v1alpha1.NodeENI) {
	t.Helper()
	if o.Spec.NodeSelector == nil {
		o.Spec.NodeSelector = map[string]string{}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&o)
	Must(t, err)
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(ours("").GroupVersion().WithKind("NodeENI"))
	if _, err := c.NodeENIs().Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create NodeENI %s: %v", o.Name, err)
	}
	if len(o.Status.Attachments) > 0 {
		c.SetAttachments(t, o.Name, o.Status.Attachments...)
	}
}

// SetAttachments replaces status.attachments of a NodeENI.
func (c *Cluster) SetAttachments(t testing.TB, name string, attachments ...v1alpha1.ENIAttachment) {
	t.Helper()
	list := make([]any, len(attachments))
	for i := range attachments {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&attachments[i])
		Must(t, err)
		list[i] = content
	}
	c.PatchNodeENI(t, name, map[string]any{"status": map[string]any{"attachments": list}}, "status")
}

// PatchNodeENI merges a patch into a NodeENI, or into a subresource of it.
func (c *Cluster) PatchNodeENI(t testing.TB, name string, patch map[string]any, subresource ...string) {
	t.Helper()
	data, err := (&unstructured.Unstructured{Object: patch}).MarshalJSON()
	Must(t, err)
	if _, err := c.NodeENIs().Patch(t.Context(), name, types.MergePatchType, data, metav1.PatchOptions{}, subresource...); err != nil {
		t.Fatalf("patch NodeENI %s: %v", name, err)
	}
}

// DeleteNodeENI deletes a NodeENI. One with a finalizer stays, with a deletionTimestamp.
func (c *Cluster) DeleteNodeENI(t testing.TB, name string) {
	t.Helper()
	if err := c.NodeENIs().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatalf("delete NodeENI %s: %v", name, err)
	}
}
