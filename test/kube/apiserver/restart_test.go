package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// restartWithin bounds a restart: the config settles within 10 s, jitter included, and restarts are 30 s apart.
const restartWithin = time.Minute

// The default namespaces and labels of the daemon's search (DESIGN §7).
var (
	pluginNamespaces = []string{"kube-system", "sriov-network-operator", "openshift-sriov-network-operator", "intel-device-plugins-operator", "default"}
	pluginLabels     = []string{"app=sriov-device-plugin", "app=kube-sriov-device-plugin", "name=sriov-device-plugin", "component=sriov-device-plugin",
		"app=sriovdp"}
)

// plugins makes device plugin pods, and acts as kubelet and DaemonSet controller: a deleted pod is replaced at once.
type plugins struct {
	t    *testing.T
	c    *cluster.Cluster
	node *cluster.Node
}

func startPlugins(t *testing.T, c *cluster.Cluster, n *cluster.Node) *plugins {
	p := &plugins{t: t, c: c, node: n}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			p.replace(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func (p *plugins) pod(namespace, name, label string) *corev1.Pod {
	key, value, _ := strings.Cut(label, "=")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{key: value},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: name, UID: types.UID("ds-" + namespace + "-" + name),
				Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: p.node.Name, TerminationGracePeriodSeconds: new(int64(5)),
			Volumes:    []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: p.node.Dir + "/pcidp"}}}},
			Containers: []corev1.Container{{Name: "dp", Image: "dp", VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/pcidp"}}}},
		},
	}
}

func (p *plugins) run(ctx context.Context, pod *corev1.Pod, started time.Time) error {
	made, err := p.c.Admin.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	made.Status = corev1.PodStatus{
		Phase:      corev1.PodRunning,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "dp", Image: "dp", ImageID: "dp", Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}}},
	}
	_, err = p.c.Admin.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

func (p *plugins) start(pod *corev1.Pod, ago time.Duration) {
	p.t.Helper()
	cluster.Must(p.t, p.run(p.t.Context(), pod, time.Now().Add(-ago)))
}

func (p *plugins) replace(ctx context.Context) {
	pods, err := p.c.Admin.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return // the test stops the API server, or has ended
	}
	for _, old := range pods.Items {
		if old.DeletionTimestamp == nil {
			continue
		}
		if got := *old.DeletionGracePeriodSeconds; got != *old.Spec.TerminationGracePeriodSeconds {
			p.t.Errorf("pod %s was given %d s, want its own %d", old.Name, got, *old.Spec.TerminationGracePeriodSeconds)
		}
		err := p.c.Admin.CoreV1().Pods(old.Namespace).Delete(ctx, old.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		if err != nil && !apierrors.IsNotFound(err) {
			continue
		}
		name, _, _ := strings.Cut(old.Name, "-after-")
		pod := p.pod(old.Namespace, name, "")
		pod.Name, pod.Labels = fmt.Sprintf("%s-after-%d", name, time.Now().UnixNano()), old.Labels
		if err := p.run(ctx, pod, time.Now()); err != nil && ctx.Err() == nil {
			p.t.Error(err)
		}
	}
}

func deletes(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	var all []string
	for _, r := range c.DaemonRequests(t) {
		if r.Verb == "delete" && r.Resource == "pods" {
			all = append(all, r.Namespace+"/"+r.Name)
		}
	}
	slices.Sort(all)
	return all
}

func declare(t *testing.T, c *cluster.Cluster, n *cluster.Node, name string, e cluster.ENI) {
	t.Helper()
	o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodeENISpec{
		SubnetID: e.SubnetID, DeviceIndex: e.Index, DPDKResourceName: "intel.com/" + name,
	}}
	o.Status.Attachments = []v1alpha1.ENIAttachment{n.Attachment(e)}
	c.CreateNodeENI(t, o)
}

// serving waits until the daemon has verified a restart.
func serving(t *testing.T, d *cluster.Daemon, times int) {
	t.Helper()
	cluster.Eventually(t, "the device plugin serves its config", restartWithin, func() error { return lines(t, d, "device plugin serves its config", times) })
}

func lines(t *testing.T, d *cluster.Daemon, message string, want int) error {
	t.Helper()
	got := 0
	for _, l := range d.Log(t) {
		if l.Msg == message {
			got++
		}
	}
	if got != want {
		return fmt.Errorf("%d lines %q, want %d", got, message, want)
	}
	return nil
}

func TestRestartFindsEveryPod(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	p := startPlugins(t, c, n)
	var want []string
	for _, namespace := range pluginNamespaces {
		c.EnsureNamespace(t, namespace)
		for i, label := range pluginLabels {
			name := fmt.Sprint("dp-", i)
			p.start(p.pod(namespace, name, label), time.Hour)
			want = append(want, namespace+"/"+name)
		}
	}
	slices.Sort(want)
	p.start(p.pod("default", "other", "app=other"), time.Hour)
	away := p.pod("default", "away", "app=sriovdp")
	away.Spec.NodeName = "node-2"
	p.start(away, time.Hour)

	declare(t, c, n, "a", n.Attach(t, 1))
	d := n.StartDaemon(t, "--podresources-socket=")
	serving(t, d, 1)
	if got := deletes(t, c); !slices.Equal(got, want) {
		t.Errorf("deleted %q, want each match once: %q", got, want)
	}
	for _, r := range c.DaemonRequests(t) {
		if r.Verb == "list" && r.Resource == "pods" && (!strings.Contains(r.URI, "resourceVersion=0") ||
			!strings.Contains(r.URI, "fieldSelector=spec.nodeName%3Dnode-1")) {
			t.Errorf("%v is not from the cache for this node alone", r)
		}
	}
}

// TestBurstIsOneRestart: 50 changes that settle cause one restart; an unchanged config or daemon restart none.
func TestBurstIsOneRestart(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	p := startPlugins(t, c, n)
	p.start(p.pod("kube-system", "dp", "app=sriovdp"), time.Hour)
	e := n.Attach(t, 1)
	d := n.StartDaemon(t, "--podresources-socket=")
	serving(t, d, 1)
	before := len(deletes(t, c))

	declare(t, c, n, "a", e)
	for i := range 49 {
		c.PatchNodeENI(t, "a", map[string]any{"spec": map[string]any{"dpdkResourceName": fmt.Sprint("intel.com/a_", i)}})
	}
	serving(t, d, 2)
	if got := deletes(t, c); len(got) != before+1 {
		t.Errorf("deleted %q, want one more than the %d before the changes", got, before)
	}
	d.Term(t)
	d.Start(t)
	c.PatchNodeENI(t, "a", map[string]any{"metadata": map[string]any{"labels": map[string]any{"x": "y"}}})
	cluster.Holds(t, "nothing is restarted for an unchanged config", 12*time.Second, func() error {
		if got := deletes(t, c); len(got) != before+1 {
			return fmt.Errorf("deleted %q", got)
		}
		return nil
	})
}

// TestNoDevicePluginIsAState: it is logged at start and end. A plugin that appears later has read the config.
func TestNoDevicePluginIsAState(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	declare(t, c, n, "a", n.Attach(t, 1))
	d := n.StartDaemon(t, "--podresources-socket=")
	const begin, end = "no device plugin on this node; one that comes reads the config as it is", "device plugin found"
	cluster.Eventually(t, "the state begins", restartWithin, func() error { return lines(t, d, begin, 1) })

	p := startPlugins(t, c, n)
	p.start(p.pod("kube-system", "dp", "app=sriovdp"), 0) // the config was written 2 s before the state began
	node, err := c.Admin.CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{})
	cluster.Must(t, err)
	one := corev1.ResourceList{"intel.com/a": resource.MustParse("1")}
	node.Status.Capacity, node.Status.Allocatable = one, one
	if _, err := c.Admin.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the state ends", restartWithin, func() error {
		return errors.Join(lines(t, d, begin, 1), lines(t, d, end, 1))
	})
	serving(t, d, 1)
	if got := deletes(t, c); len(got) > 0 {
		t.Errorf("deleted %q, want nothing", got)
	}
}

func TestUselessRestarts(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	p := startPlugins(t, c, n)
	fed := p.pod("kube-system", "fed", "app=sriovdp")
	config := corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}
	fed.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{ConfigMap: &config}
	p.start(fed, time.Hour)
	bare := p.pod("default", "bare", "app=sriovdp")
	bare.OwnerReferences = nil
	p.start(bare, time.Hour)
	declare(t, c, n, "a", n.Attach(t, 1))
	d := n.StartDaemon(t, "--podresources-socket=")
	cluster.Eventually(t, "both are problems", restartWithin, func() error {
		inv, err := n.Inventory()
		if err != nil {
			return err
		}
		for reason, at := range map[string]string{"DevicePluginConfigElsewhere": "kube-system/fed", "DevicePluginUnowned": "default/bare"} {
			if !slices.ContainsFunc(inv.Problems, func(p nodestate.Problem) bool { return string(p.Reason) == reason && p.Device == at }) {
				return fmt.Errorf("problems %+v, want %s of %s", inv.Problems, reason, at)
			}
		}
		return lines(t, d, "device plugin restart failed, trying again", 1)
	})
	if got := deletes(t, c); len(got) > 0 {
		t.Errorf("deleted %q, want nothing", got)
	}
}
