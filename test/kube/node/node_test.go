package node_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

func TestMain(m *testing.M) { os.Exit(node.Main(m)) }

const podTimeout = 2 * time.Minute

func TestPodRunsAndEnds(t *testing.T) {
	n := node.Start(t)
	start(t, n, "a")
	end(t, n, "a")
}

func TestPodOutlivesContainerdAndKubelet(t *testing.T) {
	n := node.Start(t)
	start(t, n, "a")
	n.KillContainerd()
	n.StartContainerd(t)
	n.KillKubelet()
	n.StartKubelet(t)
	start(t, n, "b")
	pod, err := n.Admin.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || pod.Status.Phase != corev1.PodRunning || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("pod a after the crashes: %v, %v", pod.Status, err)
	}
	end(t, n, "a")
	end(t, n, "b")
}

func start(t *testing.T, n *node.Node, name string) {
	t.Helper()
	grace := int64(1)
	_, err := n.Admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "pause", Image: node.PauseImage, ImagePullPolicy: corev1.PullNever}},
		},
	}, metav1.CreateOptions{})
	cluster.Must(t, err)
	took := cluster.Eventually(t, "pod "+name+" running with an address", podTimeout, func() error {
		pod, err := n.Admin.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && (pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "") {
			err = fmt.Errorf("%s %q %v", pod.Status.Phase, pod.Status.PodIP, pod.Status.ContainerStatuses)
		}
		return err
	})
	t.Logf("pod %s runs after %v", name, took.Round(time.Millisecond))
}

func end(t *testing.T, n *node.Node, name string) {
	t.Helper()
	cluster.Must(t, n.Admin.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{}))
	cluster.Eventually(t, "pod "+name+" gone", podTimeout, func() error {
		_, err := n.Admin.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there (%w)", err)
	})
}
