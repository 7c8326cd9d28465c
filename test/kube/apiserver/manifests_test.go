package apiserver

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func TestManifests(t *testing.T) {
	c := cluster.Start(t)
	repo, err := nstest.Repo()
	cluster.Must(t, err)
	files := []string{
		cluster.Kustomize(t, "resources: [DEPLOY]\n"), cluster.Kustomize(t, "resources: [DEPLOY/uninstall]\n"),
		cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/namespaced-pods]\n"),
		cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/dpdk]\n"),
		cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/monitoring, DEPLOY/components/startup-taint, DEPLOY/components/controller]\n"),
		cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/manage-addresses, DEPLOY/components/source-routing, "+
			"DEPLOY/components/host-network]\n"),
	}
	var samples []string
	for _, pattern := range []string{"conf/nodeenis/*.yaml", "conf/pods/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(repo, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("samples %v, %v", found, err)
		}
		samples = append(samples, found...)
	}
	for _, others := range []string{"networkattachmentdefinitions", "podmonitors", "prometheusrules"} {
		for _, o := range c.ApplyFile(t, "testdata/"+others+".yaml") {
			c.AwaitServed(t, o)
			t.Cleanup(func() { c.Delete(t, o) })
		}
	}
	seen := map[string]int{}
	for _, path := range append(files, samples...) {
		for _, o := range cluster.ReadFile(t, path) {
			if o.GetNamespace() == "" && (o.GetKind() == "Pod" || o.GetKind() == "Deployment" || o.GetKind() == "NetworkAttachmentDefinition") {
				o.SetNamespace("default") // as kubectl does
			}
			if err := c.TryApply(t, o); err != nil {
				t.Errorf("%s of %s: %v", o.GetKind(), path, err)
			}
			seen[o.GetKind()]++
		}
	}
	if seen["DaemonSet"] != 10 || seen["ConfigMap"] != 1 || seen["Job"] != 1 || seen["NodeENI"] == 0 || seen["NetworkAttachmentDefinition"] == 0 ||
		seen["PodMonitor"] != 2 || seen["PrometheusRule"] != 1 {
		t.Errorf("objects by kind %v", seen)
	}
}

func daemonOf(t *testing.T, path string) corev1.Container {
	t.Helper()
	for _, o := range cluster.ReadFile(t, path) {
		if o.GetKind() != "DaemonSet" || o.GetName() != "multi-enid" {
			continue
		}
		var d appsv1.DaemonSet
		cluster.Must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &d))
		return d.Spec.Template.Spec.Containers[0]
	}
	t.Fatalf("%s has no daemon", path)
	return corev1.Container{}
}

// TestDPDKComponent: it changes these fields, and drops nothing.
func TestDPDKComponent(t *testing.T) {
	yes := true
	want := daemonOf(t, cluster.Kustomize(t, "resources: [DEPLOY]\n"))
	want.Args = append(want.Args, "--dev=/host/dev", "--modules-root=/host", "--load-modules")
	want.SecurityContext = &corev1.SecurityContext{Privileged: &yes, ReadOnlyRootFilesystem: &yes}
	for i := range want.VolumeMounts {
		if want.VolumeMounts[i].MountPath == "/sys" {
			want.VolumeMounts[i].ReadOnly = false
		}
	}
	want.VolumeMounts = append(want.VolumeMounts, corev1.VolumeMount{Name: "dev", MountPath: "/host/dev"},
		corev1.VolumeMount{Name: "modules", MountPath: "/host/lib/modules", ReadOnly: true})
	got := daemonOf(t, cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/dpdk]\n"))
	byPath := cmpopts.SortSlices(func(a, b corev1.VolumeMount) bool { return a.MountPath < b.MountPath })
	if diff := cmp.Diff(want, got, byPath); diff != "" {
		t.Errorf("the daemon with components/dpdk (-want +got):\n%s", diff)
	}
}
