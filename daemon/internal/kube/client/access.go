package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	authorization "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Version is the API server's, such as v1.36.3. This file's methods are for multi-enid doctor.
func (c *Client) Version(ctx context.Context) (string, error) {
	data, err := read(ctx, c.NodeENIs.Get().AbsPath("/version"))
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

// Resources lists the plurals of networking.k8s.aws/v1alpha1; nil if the API server does not know the group.
func (c *Client) Resources(ctx context.Context) ([]string, error) {
	data, err := read(ctx, c.NodeENIs.Get().AbsPath("/apis/"+v1alpha1.APIVersion))
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

// Allowed says whether this client may use the verb on a resource ("nodes", "eninodestates/status") of an API group in a namespace, "" for all.
// Anyone authenticated may ask (ClusterRole system:basic-user).
func (c *Client) Allowed(ctx context.Context, verb, group, resource, namespace string) (bool, error) {
	return c.AllowedOn(ctx, verb, group, resource, namespace, "")
}

// AllowedOn is Allowed for one object, "" for all.
func (c *Client) AllowedOn(ctx context.Context, verb, group, resource, namespace, name string) (bool, error) {
	resource, sub, _ := strings.Cut(resource, "/")
	review := &authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorization.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name},
	}}
	answer, err := c.Core.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask whether to %s %s is allowed: %w", verb, resource, err)
	}
	return answer.Status.Allowed, nil
}

// MayReport has the API server judge a write of this node's ENINodeState by a dry run, so that RBAC and admission are asked and nothing changes.
// listed is how many ENIs the lifecycle controller's list has for this node.
func (c *Client) MayReport(ctx context.Context) (listed int, err error) {
	try := func(request *rest.Request, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return read(ctx, request.Param("dryRun", metav1.DryRunAll))
	}
	data, err := try(ApplyState(c.NodeENIs, c.NodeName, v1alpha1.ENINodeStateStatus{}))
	if apierrors.IsNotFound(err) {
		data, err = try(CreateState(c.NodeENIs, c.NodeName))
	}
	if err != nil {
		return 0, err
	}
	var answer struct {
		Spec struct {
			Attachments []json.RawMessage `json:"attachments"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, fmt.Errorf("decode ENINodeState: %w", err)
	}
	return len(answer.Spec.Attachments), nil
}

// NodeExists says whether this node's Node object exists.
func (c *Client) NodeExists(ctx context.Context) (bool, error) {
	n, err := c.Node(ctx)
	return n != nil, err
}

// Node reads the own Node; nil if it does not exist.
func (c *Client) Node(ctx context.Context) (*corev1.Node, error) {
	n, err := c.Core.CoreV1().Nodes().Get(ctx, c.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", c.NodeName, err)
	}
	return n, nil
}

// read returns an answer's body. Its error has the server's own words, which rest.Result.Raw omits.
func read(ctx context.Context, request *rest.Request) ([]byte, error) {
	result := request.Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}
