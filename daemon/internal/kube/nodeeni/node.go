package nodeeni

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type ownNode struct {
	client rest.Interface
	name   string
	report func(error)
}

func (n ownNode) listWatch() *cache.ListWatch {
	return &cache.ListWatch{ListWithContextFunc: n.list, WatchFuncWithContext: n.watch}
}

func (n ownNode) request(opts metav1.ListOptions) *rest.Request {
	opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, n.name).String()
	return n.client.Get().Resource("nodes").VersionedParams(&opts, scheme.ParameterCodec)
}

func (n ownNode) list(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	bounded, cancel := context.WithTimeout(ctx, client.ListTimeout)
	defer cancel()
	var list corev1.NodeList
	if err := n.request(metav1.ListOptions{}).Do(bounded).Into(&list); err != nil {
		n.report(err)
		return nil, err
	}
	return &list, nil
}

func (n ownNode) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	w, p, err := client.Watch(ctx, opts, n.report, func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
		return n.request(opts).Watch(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p.Bound(w), nil
}

// nodeFacts are the facts that matter about the own Node. The zero value: that Node does not exist.
type nodeFacts struct {
	ref         client.NodeRef
	labels      map[string]string
	allocatable corev1.ResourceList
	// instance is the EC2 instance's id, "" if the Node names none.
	instance string
}

func factsOf(n *corev1.Node) nodeFacts {
	return nodeFacts{
		ref: client.NodeRef{Name: n.Name, UID: n.UID}, labels: n.Labels, allocatable: n.Status.Allocatable, instance: vpc.InstanceOf(n.Spec.ProviderID),
	}
}

// OtherInstanceError means: the Node of this name is another machine's, and so are its NodeENIs.
type OtherInstanceError struct{ Node, NodeInstance, Instance string }

// Error names both instances, and the remedies.
func (e *OtherInstanceError) Error() string {
	return fmt.Sprintf("Node %q is instance %s (spec.providerID), and this is instance %s: NodeENIs list nothing of this machine under that name, so all its "+
		"devices would drain. "+
		"Correct NODE_NAME or --node-name; if the instance was replaced under its name, delete the Node, which the kubelet makes anew",
		e.Node, e.NodeInstance, e.Instance)
}

// Problem reports the error to a person.
func (e *OtherInstanceError) Problem() nodestate.Problem {
	return nodestate.Problem{Reason: reason.OtherInstance, Message: e.Error() + "; nothing counts as removed meanwhile"}
}

func (n nodeFacts) exists() bool { return n.ref.Name != "" }

// selects says whether the selector selects this node.
func (n nodeFacts) selects(selector map[string]string) bool {
	for k, want := range selector {
		if v, ok := n.labels[k]; !ok || v != want {
			return false
		}
	}
	return true
}

func (n nodeFacts) sameForSelection(o nodeFacts) bool {
	return n.ref == o.ref && n.instance == o.instance && maps.Equal(n.labels, o.labels)
}

func (n nodeFacts) sameAllocatable(o nodeFacts) bool {
	return equality.Semantic.DeepEqual(n.allocatable, o.allocatable)
}

type nodeStore struct{ s *Source }

func (n nodeStore) Add(o any) error { return n.Update(o) }

func (n nodeStore) Update(o any) error {
	if node, ok := o.(*corev1.Node); ok && node.Name == n.s.client.NodeName {
		n.s.setNode(factsOf(node))
	}
	return nil
}

func (n nodeStore) Delete(o any) error {
	if node, ok := o.(*corev1.Node); ok && node.Name == n.s.client.NodeName {
		n.s.setNode(nodeFacts{})
	}
	return nil
}

func (n nodeStore) Replace(all []any, _ string) error {
	facts := nodeFacts{}
	for _, o := range all {
		if node, ok := o.(*corev1.Node); ok && node.Name == n.s.client.NodeName {
			facts = factsOf(node)
		}
	}
	n.s.setNode(facts)
	return nil
}

func (nodeStore) Resync() error { return nil }
