package apiserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func terminating(t *testing.T, c *cluster.Cluster, name, node string) *corev1.Pod {
	t.Helper()
	grace := int64(600)
	pod := ownNode{t, c}.pod(name, node, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app.kubernetes.io/name": "multi-enid"}
		p.Spec.TerminationGracePeriodSeconds = &grace
	})
	cluster.Must(t, c.Admin.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
	return pod
}

func there(t *testing.T, c *cluster.Cluster, pod *corev1.Pod) bool {
	t.Helper()
	_, err := c.Admin.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// TestHelperThatHangsFreesThePod: the daemon of a terminating pod deletes the Pod as its last act, if a driver change hangs.
func TestHelperThatHangsFreesThePod(t *testing.T) {
	selected := map[string]string{"multi-eni-test": "yes"}
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", selected)
	e := n.Attach(t, 1)
	pod, other := terminating(t, c, "multi-enid-1", "node-1"), terminating(t, c, "multi-enid-2", "node-1")
	flags := func(p *corev1.Pod, uid string) []string {
		return []string{"--podresources-socket=", "--restart=none", "--pod-namespace=" + p.Namespace, "--pod-name=" + p.Name, "--pod-uid=" + uid}
	}
	idle := n.StartDaemon(t, flags(pod, string(pod.UID))...)
	untilSaid(t, n)
	idle.Term(t)
	if !there(t, c, pod) {
		t.Error("a daemon that nothing holds has deleted its pod")
	}

	for _, driver := range []string{"ena", "uio_pci_generic"} {
		cluster.Must(t, os.MkdirAll(filepath.Join(n.Sysfs, "bus/pci/drivers", driver), 0o755))
	}
	cluster.Must(t, os.WriteFile(filepath.Join(n.Sysfs, "bus/pci/devices", e.PCI, "driver_override"), []byte("(null)\n"), 0o644))
	stuck, err := nstest.NewStuck(filepath.Join(n.Sysfs, "bus/pci/drivers/ena"))
	if err != nil {
		t.Skip(err)
	}
	defer stuck.LetGo() //nolint:errcheck // nothing is looked at any more
	c.CreateNodeENI(t, v1alpha1.NodeENI{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: v1alpha1.NodeENISpec{
			NodeSelector: selected, SubnetID: e.SubnetID, DeviceIndex: e.Index,
			EnableDPDK: true, DPDKDriver: "uio_pci_generic", DPDKResourceName: "intel.com/fast",
		},
		Status: v1alpha1.NodeENIStatus{Attachments: []v1alpha1.ENIAttachment{n.Attachment(e)}},
	})
	held := n.StartDaemon(t, flags(pod, string(pod.UID))...)
	select {
	case <-stuck.Asked:
	case <-time.After(30 * time.Second):
		t.Fatal("the device is not unbound")
	}
	held.Term(t)
	if there(t, c, pod) {
		t.Error("the Pod object is still there")
	}
	if !there(t, c, other) {
		t.Error("another pod has been deleted")
	}
	if err := says(held.Log(t), "own Pod object is out of the way", e.PCI, "kube-system/multi-enid-1"); err != nil {
		t.Error(err)
	}
}

func says(log []cluster.LogLine, parts ...string) error {
	found := 0
	for _, l := range log {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(l.Raw, p)
		}
		if all {
			found++
		}
	}
	if found == 0 {
		return errors.New("no line says " + strings.Join(parts, ", "))
	}
	if found > 1 {
		return fmt.Errorf("%d lines say %v", found, parts)
	}
	return nil
}
