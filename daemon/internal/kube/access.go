package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	authorization "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// The questions that multi-enid doctor asks. The daemon itself asks none of
// them.

// Version is the API server's, such as v1.36.3.
func (c *Client) Version(ctx context.Context) (string, error) {
	data, err := read(ctx, c.neni.Get().AbsPath("/version"))
	if err != nil {
		return "", fmt.Errorf("ask the API server for its version: %w", err)
	}
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(data, &version); err != nil || version.GitVersion == "" {
		return "", fmt.Errorf("ask the API server for its version: it answers %.100q, want gitVersion", data)
	}
	return version.GitVersion, nil
}

// Resources are those that the API server has in networking.k8s.aws/v1alpha1, by
// their plural; none when it does not know the group.
func (c *Client) Resources(ctx context.Context) ([]string, error) {
	data, err := read(ctx, c.neni.Get().AbsPath("/apis/"+v1alpha1.APIVersion))
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the resources of %s: %w", v1alpha1.APIVersion, err)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("list the resources of %s: %w", v1alpha1.APIVersion, err)
	}
	var names []string
	for _, r := range list.APIResources {
		names = append(names, r.Name)
	}
	return names, nil
}

// Allowed says whether this client may use the verb on a resource ("nodes",
// "eninodestates/status") of an API group, in one namespace or, with "", in all.
// Whoever is authenticated may ask that (ClusterRole system:basic-user).
func (c *Client) Allowed(ctx context.Context, verb, group, resource, namespace string) (bool, error) {
	resource, sub, _ := strings.Cut(resource, "/")
	review := &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorization.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: namespace},
	}}
	answer, err := c.core.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether to %s %s is allowed: %w", verb, resource, err)
	}
	return answer.Status.Allowed, nil
}

// NodeExists says whether there is a Node object of this node's name.
func (c *Client) NodeExists(ctx context.Context) (bool, error) {
	n, err := c.readNode(ctx)
	return n.exists(), err
}

// readNode returns the own Node, which does not exist when the API server says
// so.
func (c *Client) readNode(ctx context.Context) (nodeFacts, error) {
	n, err := c.core.CoreV1().Nodes().Get(ctx, c.nodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nodeFacts{}, nil
	}
	if err != nil {
		return nodeFacts{}, fmt.Errorf("read node %s: %w", c.nodeName, err)
	}
	return factsOf(n), nil
}

// read returns the body of an answer. An error has the server's own words, which
// rest.Result.Raw leaves out.
func read(ctx context.Context, request *rest.Request) ([]byte, error) {
	result := request.Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

// Drivers are the userspace drivers that NodeENIs want on this node, each with
// the NodeENIs' names. Objects that cannot be read are left out.
func (c *Client) Drivers(ctx context.Context) (map[string][]string, error) {
	node, err := c.readNode(ctx)
	if err != nil {
		return nil, err
	}
	list, err := nodeENIs{client: c.neni, trim: trimmer{node: c.nodeName}}.pages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list NodeENIs: %w", err)
	}
	drivers := map[string][]string{}
	for _, it := range list.Items {
		d := declare(nil, it.(*item)) //nolint:errcheck // pages makes nothing else
		o := d.object.Defaulted()
		if d.known && o.DeletionTimestamp == nil && o.Spec.Case() == v1alpha1.Case3DPDK && node.selects(o.Spec.NodeSelector) {
			drivers[o.Spec.DPDKDriver] = append(drivers[o.Spec.DPDKDriver], o.Name)
		}
	}
	return drivers, nil
}
