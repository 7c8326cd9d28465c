// Package pluginpods finds the SR-IOV device plugin's pods on this node, and restarts those with an earlier config.
package pluginpods

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// DefaultNamespaces are the usual ones of the device plugin: its manifests', the SR-IOV operator's on Kubernetes and OpenShift, Intel's operator's.
func DefaultNamespaces() []string {
	return []string{"kube-system", "sriov-network-operator", "openshift-sriov-network-operator", "intel-device-plugins-operator", "default"}
}

// DefaultSelectors match the usual labels of its pods.
func DefaultSelectors() []string {
	return []string{
		"app=sriov-device-plugin", "app=kube-sriov-device-plugin", "name=sriov-device-plugin",
		"component=sriov-device-plugin", "app=sriovdp",
	}
}

const (
	// pluginPatience bounds a restart: the pod's grace period (30 s by default), a new pod, and its registration with the kubelet.
	pluginPatience = 90 * time.Second
	// pluginPoll is the pause between two looks at a restart.
	pluginPoll = time.Second
)

// Options say which pods are the device plugin's.
type Options struct {
	// Namespaces are searched for pods that match any Selector, such as "app=sriovdp". Nil stands for the defaults.
	Namespaces, Selectors []string
	// Config is the device plugin's config file on the host. A pod that mounts neither it nor a folder above reads another config.
	Config string
	// Kubelet lists the kubelet's devices. If nil, ready new pods are enough to verify a restart.
	Kubelet func(context.Context) (inventory.Kubelet, error)
	Now     func() time.Time
	Log     logrus.FieldLogger
}

// DevicePlugin finds and restarts the device plugin's pods on this node. It is safe for concurrent use.
type DevicePlugin struct {
	client         *client.Client
	namespaces     []string
	selectors      []labels.Selector
	config         string
	kubelet        func(context.Context) (inventory.Kubelet, error)
	log            logrus.FieldLogger
	patience, poll time.Duration
	now            func() time.Time
}

var _ pluginrestart.DevicePlugin = (*DevicePlugin)(nil)

// New sends nothing yet. An error names the unusable option.
func New(c *client.Client, o Options) (*DevicePlugin, error) {
	if o.Namespaces == nil {
		o.Namespaces = DefaultNamespaces()
	}
	if o.Selectors == nil {
		o.Selectors = DefaultSelectors()
	}
	d := &DevicePlugin{client: c, config: o.Config, kubelet: o.Kubelet, now: o.Now, log: o.Log, patience: pluginPatience, poll: pluginPoll}
	for _, namespace := range o.Namespaces {
		if faults := validation.IsDNS1123Label(namespace); len(faults) > 0 {
			return nil, fmt.Errorf("namespace %q of the device plugin: %s", namespace, strings.Join(faults, "; "))
		}
	}
	d.namespaces = slices.Compact(slices.Sorted(slices.Values(o.Namespaces)))
	for _, text := range o.Selectors {
		selector, err := labels.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("label selector %q of the device plugin: %w", text, err)
		}
		if selector.Matches(labels.Set{}) {
			return nil, fmt.Errorf("label selector %q of the device plugin matches pods without labels; name a label that only the device plugin has, such as "+
				"app=sriovdp", text)
		}
		d.selectors = append(d.selectors, selector)
	}
	if len(d.namespaces) == 0 || len(d.selectors) == 0 {
		return nil, errors.New("the device plugin needs a namespace and a label selector at least; give --dp-namespaces and --dp-selectors, or --restart=none")
	}
	return d, nil
}

// Find implements pluginrestart.DevicePlugin.
func (d *DevicePlugin) Find(ctx context.Context) (pluginrestart.PluginReport, error) {
	_, report, err := d.search(ctx)
	return report, err
}

// search looks in all namespaces. A refusal is a problem only if the other namespaces have no pod: no role can be granted in a namespace
// that does not exist yet, and the API server answers 403 for it too. After any other failure the pods are unknown.
func (d *DevicePlugin) search(ctx context.Context) ([]corev1.Pod, pluginrestart.PluginReport, error) {
	var pods []corev1.Pod
	var denied []string
	for _, namespace := range d.namespaces {
		found, err := d.list(ctx, namespace)
		if apierrors.IsForbidden(err) {
			denied = append(denied, namespace)
			if len(denied) == len(d.namespaces) {
				return nil, pluginrestart.PluginReport{}, fmt.Errorf("no namespace may be searched for the device plugin: %w", err)
			}
			continue
		}
		if err != nil {
			return nil, pluginrestart.PluginReport{}, fmt.Errorf("search namespace %s for the device plugin: %w", namespace, err)
		}
		pods = append(pods, found...)
	}
	report := pluginrestart.PluginReport{Pods: podNames(pods), Readers: runs(pods, d.config), Prefixes: prefixes(pods, d.config),
		Problems: podProblems(pods, d.config)}
	if len(pods) > 0 {
		return pods, report, nil
	}
	if len(denied) > 0 {
		report.Problems = append(report.Problems, nodestate.Problem{
			Reason: reason.NamespacesNotSearchable,
			Message: fmt.Sprintf("no device plugin was found on this node, and the daemon may not search these namespaces for it: %s; apply deploy/rbac.yaml, or a "+
				"Role as in deploy/components/namespaced-pods, or name only your namespaces with --dp-namespaces",
				strings.Join(denied, ", ")),
		})
	}
	return nil, report, pluginrestart.ErrNoDevicePlugin
}

// list returns the device plugin's running pods of one namespace on this node. The API server's cache answers (resourceVersion 0), and may lag.
// Labels are compared here, so any number of selectors is one request.
func (d *DevicePlugin) list(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	all, err := d.client.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
		ResourceVersion: "0",
		FieldSelector:   fields.OneTermEqualSelector("spec.nodeName", d.client.NodeName).String(),
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all.Items, func(p corev1.Pod) bool {
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		return ended || !slices.ContainsFunc(d.selectors, func(s labels.Selector) bool { return s.Matches(labels.Set(p.Labels)) })
	}), nil
}

func podName(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func podNames(pods []corev1.Pod) []string {
	var all []string
	for i := range pods {
		all = append(all, podName(&pods[i]))
	}
	slices.Sort(all)
	return all
}

func podProblems(pods []corev1.Pod, config string) []nodestate.Problem {
	var found []nodestate.Problem
	for i := range pods {
		p := &pods[i]
		name, owner := podName(p), daemonSet(p)
		if owner != nil {
			name = p.Namespace + "/" + owner.Name // which outlives its pods
		}
		found = append(found, prefixProblem(p, name, config)...)
		if len(readers(p, config)) == 0 {
			found = append(found, nodestate.Problem{
				Reason: reason.DevicePluginConfigElsewhere, Device: name,
				Message: fmt.Sprintf("device plugin %s does not mount the folder of %s from the host, so it does not read this config and restarting it is useless; "+
					"mount that folder instead of a ConfigMap", name, config),
			})
		} else if owner == nil {
			found = append(found, nodestate.Problem{
				Reason: reason.DevicePluginUnowned, Device: name,
				Message: fmt.Sprintf("device plugin pod %s has no DaemonSet that would replace it, so it is not restarted; run it as a DaemonSet, or restart it by "+
					"hand after each change of its config", name),
			})
		}
	}
	slices.SortFunc(found, func(a, b nodestate.Problem) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(found)
}

func daemonSet(p *corev1.Pod) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(p)
	if owner == nil || owner.Kind != "DaemonSet" || owner.APIVersion != "apps/v1" {
		return nil
	}
	return owner
}
