package client

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// OwnPod is the pod that the daemon runs in.
type OwnPod struct {
	Namespace, Name, UID string
}

// String is namespace/name.
func (p OwnPod) String() string { return p.Namespace + "/" + p.Name }

// Key is namespace/name, "" unless both are known.
func (p OwnPod) Key() string {
	if p.Namespace == "" || p.Name == "" {
		return ""
	}
	return p.String()
}

// Known says whether it names exactly one pod.
func (p OwnPod) Known() bool { return p.Namespace != "" && p.Name != "" && p.UID != "" }

// releaseTimeout leaves enough of the kubelet's grace period for the rest of the daemon's end.
const releaseTimeout = 4 * time.Second

// ReleaseOwnPod deletes the Pod object at once, though containers may still run, so that its DaemonSet can make another:
// podsShouldBeOnNode (pkg/controller/daemon of Kubernetes) makes none while the object exists. The kubelet still ends the containers
// (HandlePodRemoves of pkg/kubelet/kubelet.go). A missing object, or another pod of the name, counts as released.
func (c *Client) ReleaseOwnPod(ctx context.Context, pod OwnPod) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	now := int64(0)
	err := c.Core.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now,
		Preconditions: metav1.NewUIDPreconditions(pod.UID)})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("delete the own pod %s: %w", pod, err)
}
