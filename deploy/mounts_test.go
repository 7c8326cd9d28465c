package deploy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// mountsOf lists the mounts of a pod's only container, each as "rw" or "ro", the host's path, and the container's if that is another.
func mountsOf(t *testing.T, file string) []string {
	t.Helper()
	var pod corev1.PodSpec
	for _, o := range decode(t, file) {
		switch o := o.(type) {
		case *appsv1.DaemonSet:
			pod = o.Spec.Template.Spec
		case *batchv1.Job:
			pod = o.Spec.Template.Spec
		default:
			t.Fatalf("%s has a %T", file, o)
		}
	}
	host := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath == nil {
			t.Fatalf("%s: volume %s is no folder of the host", file, v.Name)
		}
		host[v.Name] = v.HostPath.Path
	}
	var all []string
	for _, m := range pod.Containers[0].VolumeMounts {
		line := "rw " + host[m.Name]
		if m.ReadOnly {
			line = "ro " + host[m.Name]
		}
		if m.MountPath != host[m.Name] {
			line += " at " + m.MountPath
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

// TestMountsAreTheseAndNoMore: each folder here is a right on every node of every cluster. Of the kubelet's folders the daemon gets two:
// podresources, which it reads, and device-plugins, where it registers.
func TestMountsAreTheseAndNoMore(t *testing.T) {
	for file, want := range map[string][]string{
		"daemon.yaml": {
			"ro /etc/multi-eni", "ro /opt/cni/bin", "ro /sys", "ro /var/lib/kubelet/pod-resources",
			"rw /etc/pcidp", "rw /proc/sys/net at /host/proc/sys/net", "rw /run/multi-eni", "rw /run/netns", "rw /run/netns at /var/run/netns",
			"rw /var/lib/cni", "rw /var/lib/kubelet/device-plugins", "rw /var/lib/multi-eni", "rw /var/run/k8s.cni.cncf.io/devinfo/dp",
		},
		"installer.yaml":     {"rw /etc/multi-eni", "rw /opt/cni/bin"},
		"uninstall/job.yaml": {"rw /etc at /host/etc", "rw /etc/multi-eni", "rw /opt/cni/bin", "rw /run", "rw /var/lib"},
	} {
		if diff := cmp.Diff(want, mountsOf(t, file)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}
