// Package outside reads the daemons' reports with a person's kubeconfig. It changes nothing, and compiles wherever kubectl runs.
package outside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var (
	// ErrNoCluster means: no API server is known or can be reached.
	ErrNoCluster = errors.New("no cluster")
	// ErrNotInstalled means: the cluster does not know ENINodeStates.
	ErrNotInstalled = errors.New("multi-eni-cni is not installed in this cluster")
	// ErrForbidden means: the user lacks a right.
	ErrForbidden = errors.New("not allowed")
)

const requestTimeout = 30 * time.Second

const pageSize = "500"

// Config names the cluster like kubectl's flags.
type Config struct {
	Kubeconfig, Context, Namespace string
	// UserAgent is sent with every request.
	UserAgent string
}

// Client reads from one cluster.
type Client struct {
	rest rest.Interface
	host string
	// Namespace is the given one, or the context's.
	Namespace string
}

// Connect sends nothing yet. The error wraps ErrNoCluster.
func Connect(c Config) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: c.Context}
	overrides.Context.Namespace = c.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("%w: there is no kubeconfig; give --kubeconfig, or set KUBECONFIG", ErrNoCluster)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w; check --kubeconfig and --context", ErrNoCluster, err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoCluster, err)
	}
	config.UserAgent, config.Timeout = c.UserAgent, requestTimeout
	config.APIPath = "/apis"
	config.GroupVersion = &schema.GroupVersion{Group: v1alpha1.GroupName, Version: v1alpha1.Version}
	config.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoCluster, err)
	}
	return &Client{rest: client, host: config.Host, Namespace: namespace}, nil
}

// NodeStates lists the ENINodeStates of all nodes.
func (c *Client) NodeStates(ctx context.Context) ([]v1alpha1.ENINodeState, error) {
	var all []v1alpha1.ENINodeState
	for more := ""; ; {
		request := c.rest.Get().Resource(v1alpha1.NodeStateResource).Param("limit", pageSize)
		if more != "" {
			request.Param("continue", more)
		}
		var page v1alpha1.ENINodeStateList
		if err := c.get(ctx, request, "list", v1alpha1.NodeStateResource+"."+v1alpha1.GroupName, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if more = page.Continue; more == "" {
			return all, nil
		}
	}
}

// Pod is where a daemon runs.
type Pod struct {
	Namespace, Name, Node string
	// Phase is the pod's, such as Running.
	Phase string
}

// DaemonPods lists the daemon's pods in all namespaces.
func (c *Client) DaemonPods(ctx context.Context) ([]Pod, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Namespace, Name string }
			Spec     struct {
				NodeName string `json:"nodeName"`
			}
			Status struct{ Phase string }
		}
	}
	request := c.rest.Get().AbsPath("/api/v1/pods").Param("labelSelector", "app.kubernetes.io/name=multi-enid")
	if err := c.get(ctx, request, "list", "pods", &list); err != nil {
		return nil, err
	}
	var pods []Pod
	for _, p := range list.Items {
		pods = append(pods, Pod{p.Metadata.Namespace, p.Metadata.Name, p.Spec.NodeName, p.Status.Phase})
	}
	return pods, nil
}

// get decodes an answer into out. Errors name the remedy.
func (c *Client) get(ctx context.Context, request *rest.Request, verb, resource string, out any) error {
	result := request.Do(ctx)
	err := result.Error()
	if err == nil {
		var body []byte
		if body, err = result.Raw(); err == nil {
			err = json.Unmarshal(body, out)
		}
	}
	var unreachable *url.Error
	var network net.Error
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: it has no %s; install it by docs/install.md, or check --context", ErrNotInstalled, resource)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: you may not %s %s; ask for the ClusterRole of docs/operations.md (multi-eni-view)", ErrForbidden, verb, resource)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %s does not accept your credentials; log in again, or check --context", ErrForbidden, c.host)
	case errors.As(err, &unreachable), errors.As(err, &network):
		return fmt.Errorf("%w: %s does not answer: %w; check --context", ErrNoCluster, c.host, err)
	}
	return fmt.Errorf("%s %s: %w", verb, resource, err)
}
