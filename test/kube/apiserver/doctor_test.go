package apiserver

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// doctorTimeout bounds one run of doctor; its own checks have bounds too.
const doctorTimeout = 2 * time.Minute

func doctor(t *testing.T, c *cluster.Cluster, n *cluster.Node, flags ...string) string {
	t.Helper()
	bin, err := nstest.Binary("multi-enid")
	cluster.Must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), doctorTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{
		"doctor", "--node-name=" + n.Name, "--nodeeni-source=kube", "--kubeconfig=" + c.WriteKubeconfig(t), "--podresources-socket=",
		"--dp-namespaces=kube-system,default",
		"--sysfs=" + n.Sysfs, "--pcidp-config=" + n.ConfigPath(), "--inventory=" + filepath.Join(n.Dir, "run", "inventory.json"),
		"--state-dir=" + filepath.Join(n.Dir, "state"), "--attachments-dir=" + string(n.AttachmentsDir()), "--policy=" + filepath.Join(n.Dir, "policy.json"),
	}, flags...)...)
	cmd.Env = []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + n.IMDS.URL}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || len(out) == 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	if failed := strings.Contains(string(out), "FAIL  "); failed != (err != nil) {
		t.Errorf("exit status %v of the report\n%s", err, out)
	}
	return string(out)
}

func wantLines(t *testing.T, report string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+report, "\n"+line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
}

// TestDoctor: the report with the permissions of deploy/, and without permissions, CRDs, Node or server.
func TestDoctor(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-a", nil)
	wantLines(t, doctor(t, c, n),
		"ok    Kubernetes API: v1.",
		"ok    CRDs: nodeenis and eninodestates of networking.k8s.aws/v1alpha1 are served\n",
		"ok    RBAC nodeenis.networking.k8s.aws: get, list, watch allowed\n",
		"ok    RBAC eninodestates.networking.k8s.aws: get, list, watch, create allowed\n",
		"ok    RBAC eninodestates.networking.k8s.aws/status: patch allowed\n",
		"ok    RBAC nodes: get, list, watch allowed\n",
		"ok    RBAC events: create, patch allowed\n",
		"ok    RBAC pods: list, delete allowed in kube-system, default\n",
		"warn  device plugin: none found on this node in kube-system, default; ",
		"ok    Node object: node-a exists\n",
		"ok    ENINodeState: this node may report\n",
		"ok    instance metadata: token granted, ENIs readable: 1\n",
		"ok    drivers: no NodeENI of this node wants a userspace driver",
	)
	const offer = "networking.k8s.aws/offer"
	c.SetNodeLabel(t, n.Name, offer, "deviceplugin")
	wantLines(t, doctor(t, c, n), "ok    offer: mode deviceplugin, by the Node's label "+offer+"\n",
		"ok    device plugin: none found on this node, and none is needed: ")
	c.SetNodeLabel(t, n.Name, offer, "dra")
	wantLines(t, doctor(t, c, n), `warn  offer: the Node's label `+offer+` is "dra", so the mode stays as it was; `,
		"warn  device plugin: none found on this node in kube-system, default; ")
	folder := filepath.Dir(n.ConfigPath())
	devicePlugin(t, c, "served", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder}}, folder)
	devicePlugin(t, c, "useless", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, folder)
	report := doctor(t, c, n)
	wantLines(t, report, "ok    device plugin: kube-system/served, kube-system/useless, resource prefix intel.com\n", "warn  device plugin: ")
	if !strings.Contains(report, "kube-system/useless does not mount") {
		t.Errorf("report does not name the pod that a ConfigMap feeds:\n%s", report)
	}
	wantLines(t, doctor(t, c, n, "--node-name=node-b"), "FAIL  Node object: there is no Node node-b; ")

	c.DeleteCRD(t, "eninodestates")
	wantLines(t, doctor(t, c, n), "FAIL  CRDs: not installed: eninodestates.networking.k8s.aws; run: kubectl apply -f deploy/crd\n")
	c.InstallCRDs(t)

	c.RevokePermissions(t, "doctor says which are missing")
	cluster.Eventually(t, "permissions revoked", doctorTimeout, func() error {
		if report := doctor(t, c, n); !strings.Contains(report, "FAIL  RBAC nodeenis.networking.k8s.aws: get, list, watch denied: ") {
			return errors.New(report)
		}
		return nil
	})
	c.Proxy.Set(t, cluster.Refuse)
	wantLines(t, doctor(t, c, n), "FAIL  Kubernetes API: ask the API server for its version: ")
}

func devicePlugin(t *testing.T, c *cluster.Cluster, name string, volume corev1.VolumeSource, path string) {
	t.Helper()
	if volume.ConfigMap != nil {
		volume.ConfigMap.Name = "sriovdp-config"
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "sriovdp"}},
		Spec: corev1.PodSpec{
			NodeName: "node-a", Volumes: []corev1.Volume{{Name: "config", VolumeSource: volume}},
			Containers: []corev1.Container{{Name: "sriovdp", Image: "sriovdp", VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: path}}}},
		},
	}
	if _, err := c.Admin.CoreV1().Pods("kube-system").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
