package onenode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	registry         = "/var/lib/kubelet/plugins_registry"
	deviceInfo       = "/var/run/k8s.cni.cncf.io/devinfo/dp"
	devicePluginName = "sriovdp"
	callTimeout      = 10 * time.Second
)

func (s *stage) startDevicePlugin() {
	s.Helper()
	binary, err := nstest.Binary("kube/sriovdp")
	s.must(err)
	s.ImportImage(s.T, "localhost/sriovdp:1", binary)
	labels := map[string]string{"app": "sriovdp"}
	folder, made := corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate
	host := func(name, path string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &folder}}}
	}
	grace := int64(5)
	pod := corev1.PodSpec{
		HostNetwork: true, TerminationGracePeriodSeconds: &grace,
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Volumes: []corev1.Volume{host("registry", registry), host("config", filepath.Dir(s.config())), host("sysfs", s.host.Sysfs),
			{Name: "device-info", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: deviceInfo, Type: &made}}}},
		Containers: []corev1.Container{{
			Name: devicePluginName, Image: "localhost/sriovdp:1", ImagePullPolicy: corev1.PullNever, Args: []string{"-sysfs=/host/sys"},
			VolumeMounts: []corev1.VolumeMount{{Name: "registry", MountPath: registry}, {Name: "config", MountPath: "/etc/pcidp"},
				{Name: "sysfs", MountPath: "/host/sys"}, {Name: "device-info", MountPath: deviceInfo}},
		}},
	}
	_, err = s.Admin.AppsV1().DaemonSets("kube-system").Create(s.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: devicePluginName},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.Cleanup(func() {
		err := s.Admin.AppsV1().DaemonSets("kube-system").Delete(context.Background(), devicePluginName, metav1.DeleteOptions{}) // the test's own context is over
		s.must(err)
		cluster.Eventually(cleanup{s.T}, "end of the device plugin", settle, func() error {
			return none("processes", processes(isDevicePlugin))
		})
		left, err := filepath.Glob(registry + "/*_*.sock")
		s.must(err)
		for _, socket := range left { // of one that was killed
			s.must(os.Remove(socket))
		}
	})
}

func isDevicePlugin(args []string) bool { return filepath.Base(args[0]) == devicePluginName }

// devicePlugins returns the UIDs of its running pods, joined.
func (s *stage) devicePlugins() string {
	s.Helper()
	list, err := s.Admin.CoreV1().Pods("kube-system").List(s.Context(), metav1.ListOptions{LabelSelector: "app=sriovdp"})
	s.must(err)
	var uids []string
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			uids = append(uids, string(p.UID))
		}
	}
	return strings.Join(uids, ",")
}

// allocatable is the node's count of a resource, 0 if it has none.
func (s *stage) allocatable(name string) (int64, error) {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	n, err := s.Admin.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		return -1, err
	}
	q := n.Status.Allocatable[corev1.ResourceName(name)]
	return q.Value(), nil
}

func (s *stage) create(name, resourceName string) error {
	return s.createPod(name, corev1.ResourceList{corev1.ResourceName(resourceName): resource.MustParse("1")})
}

func (s *stage) createPod(name string, limits corev1.ResourceList) error {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	grace := int64(1)
	_, err := s.Admin.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: node.PauseImage, ImagePullPolicy: corev1.PullNever,
				Resources: corev1.ResourceRequirements{Limits: limits},
			}},
		},
	}, metav1.CreateOptions{})
	return err
}

func (s *stage) delete(name string) error {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	err := s.Admin.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// status is the zero value for a pod that does not exist.
func (s *stage) status(name string) (corev1.PodStatus, error) {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	p, err := s.Admin.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return corev1.PodStatus{}, nil
	}
	if err != nil {
		return corev1.PodStatus{}, err
	}
	return p.Status, nil
}

func (s *stage) inPhase(name string, wanted corev1.PodPhase) func() error {
	return func() error {
		got, err := s.status(name)
		if err != nil {
			return err
		}
		if err := want(got.Phase, wanted); err != nil {
			return fmt.Errorf("%w (%s: %s)", err, got.Reason, got.Message)
		}
		return nil
	}
}

func (s *stage) allocations() (map[string]string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+node.PodResourcesSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, p := range list.GetPodResources() {
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				for _, id := range d.GetDeviceIds() {
					if other, ok := out[id]; ok {
						return out, fmt.Errorf("%s is allocated to %s and to %s", id, other, p.GetName())
					}
					out[id] = p.GetName()
				}
			}
		}
	}
	return out, nil
}

func processes(is func(args []string) bool) []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(b) == 0 {
			continue
		}
		if is(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")) {
			out = append(out, pid)
		}
	}
	return out
}

// cleanup is a test whose own context has ended.
type cleanup struct{ *testing.T }

// Context never ends.
func (cleanup) Context() context.Context { return context.Background() }
