// Package client speaks to the API server as one node, for the other packages below kube.
package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	objectmeta "k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var (
	// ErrNoNodeName means: this node has no usable name.
	ErrNoNodeName = errors.New("no usable node name")
	// ErrNoClient means: no client could be made; the error that wraps it has the cause.
	ErrNoClient = errors.New("no Kubernetes client")
)

// Limits of the daemon's requests.
const (
	// requestTimeout bounds every request of Client.core and Client.neni.
	requestTimeout = 30 * time.Second
	// requestsPerSecond and requestBurst allow one search for device plugins, a request for each namespace, at once. At rest there is none.
	requestsPerSecond = 10
	requestBurst      = 20
)

// Config says how to reach the API server.
type Config struct {
	// NodeName is the name of this node's Node object.
	NodeName string
	// Kubeconfig is a file; "" stands for the pod's service account. A rotated token file is read again.
	Kubeconfig string
	// UserAgent is sent with every request, such as multi-enid/v1.2.0.
	UserAgent string
	// Log also gets client-go's log, at debug level. That log is the process's: it stays with the first connected Config.
	Log logrus.FieldLogger
}

// Client speaks to the API server as one node. It is safe for concurrent use.
type Client struct {
	// Core is for the built-in kinds. Its requests, and those of NodeENIs, end after requestTimeout, so neither can watch.
	Core     kubernetes.Interface
	NodeENIs rest.Interface
	NodeName string
	// WatchCore and WatchNodeENIs have no limit of their own.
	WatchCore, WatchNodeENIs rest.Interface
	// WatchMetadata has none either.
	WatchMetadata objectmeta.Interface
}

// NodeRef names a Node object.
type NodeRef struct {
	Name string
	UID  types.UID
}

// FieldManager owns the fields that the daemon writes.
const FieldManager = "multi-enid"

// Connect sends nothing yet. The error wraps ErrNoNodeName, which is checked first, or ErrNoClient and its cause.
func Connect(c Config) (*Client, error) {
	if err := ValidateNodeName(c.NodeName); err != nil {
		return nil, err
	}
	config, err := Configure(c)
	if err != nil {
		return nil, err
	}
	client, err := New(config, c.NodeName)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoClient, err)
	}
	return client, nil
}

// ValidateNodeName accepts the same names as the API server.
func ValidateNodeName(name string) error {
	if name == "" {
		return fmt.Errorf("%w: it is empty; give --node-name, or set NODE_NAME from the pod's spec.nodeName", ErrNoNodeName)
	}
	if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 {
		return fmt.Errorf("%w: %q: %s", ErrNoNodeName, name, strings.Join(faults, "; "))
	}
	return nil
}

// Configure redirects client-go's log, and returns the configuration of a client that need not be a node's. The error wraps ErrNoClient.
func Configure(c Config) (*rest.Config, error) {
	RedirectLog(c.Log)
	config, err := restConfig(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoClient, err)
	}
	return config, nil
}

func restConfig(c Config) (*rest.Config, error) {
	read := inCluster
	if c.Kubeconfig != "" {
		read = func() (*rest.Config, error) { return readKubeconfig(c.Kubeconfig) }
	}
	config, err := read()
	if err != nil {
		return nil, err
	}
	config.UserAgent = c.UserAgent
	config.QPS, config.Burst = requestsPerSecond, requestBurst
	config.WarningHandlerWithContext = rest.NoWarnings{}
	return config, nil
}

func inCluster() (*rest.Config, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("read the pod's service account: %w; outside a cluster give --kubeconfig", err)
	}
	return config, nil
}

func readKubeconfig(path string) (*rest.Config, error) {
	file, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %q: %w", path, err)
	}
	if err := clientcmd.ResolveLocalPaths(file); err != nil {
		return nil, fmt.Errorf("read kubeconfig %q: %w", path, err)
	}
	config, err := clientcmd.NewDefaultClientConfig(*file, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %q: %w", path, err)
	}
	return config, nil
}

// New returns a Client for a node of a valid name. Its clients share one connection.
func New(config *rest.Config, nodeName string) (*Client, error) {
	watching := rest.CopyConfig(config)
	watching.Timeout = 0
	calling := rest.CopyConfig(config)
	calling.Timeout = requestTimeout

	c := &Client{NodeName: nodeName}
	var err error
	if c.Core, err = kubernetes.NewForConfig(asCore(calling)); err != nil {
		return nil, err
	}
	core, err := kubernetes.NewForConfig(asCore(watching))
	if err != nil {
		return nil, err
	}
	c.WatchCore = core.CoreV1().RESTClient()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	if c.NodeENIs, err = rest.RESTClientFor(asNodeENI(calling, codecs)); err != nil {
		return nil, err
	}
	if c.WatchNodeENIs, err = rest.RESTClientFor(asNodeENI(watching, codecs)); err != nil {
		return nil, err
	}
	if c.WatchMetadata, err = objectmeta.NewForConfig(watching); err != nil {
		return nil, err
	}
	return c, nil
}

// asCore asks for protobuf, a third of the size of JSON.
func asCore(config *rest.Config) *rest.Config {
	c := rest.CopyConfig(config)
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return c
}

// asNodeENI asks for JSON: not every server knows a shorter form for custom resources.
func asNodeENI(config *rest.Config, codecs runtime.NegotiatedSerializer) *rest.Config {
	c := rest.CopyConfig(config)
	c.GroupVersion = &schema.GroupVersion{Group: v1alpha1.GroupName, Version: v1alpha1.Version}
	c.APIPath = "/apis"
	c.ContentType = runtime.ContentTypeJSON
	c.NegotiatedSerializer = codecs
	return c
}
