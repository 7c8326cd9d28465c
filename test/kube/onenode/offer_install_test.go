package onenode

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

// TestOfferInstalled: with components/offer, the daemon's pod has the mounts and the rights to give a pod its device without any device plugin,
// and neither the daemon nor uninstall leaves a file of it.
func TestOfferInstalled(t *testing.T) {
	s := bareNode(t, 1)
	a, before := s.enis[0], s.files()
	manifests := cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/offer]\n"+
		"images: [{name: multi-eni-cni, newName: "+imageName+", newTag: "+shipped+"}]\n")
	s.installUntil(manifests)
	s.must(s.declare(a))
	cluster.Eventually(t, "allocatable 1", settle, s.counts(a, 1))
	s.must(s.create("p1", a.resource()))
	cluster.Eventually(t, "pod p1", settle, s.inPhase("p1", corev1.PodRunning))
	s.must(s.hasDevice("p1", a))
	info := "/var/run/k8s.cni.cncf.io/devinfo/dp/" + strings.ReplaceAll(a.resource(), "/", "-") + "-" + a.PCI + "-device.json"
	if !s.exists(info) {
		t.Errorf("there is no %s", info)
	}
	report := s.doctor()
	for _, line := range []string{"ok    offer: mode deviceplugin, by --offer", "ok    offer: resources served: 1",
		"ok    device plugin: none found on this node, and none is needed"} {
		if !strings.Contains(report, line) || strings.Contains(report, "FAIL") {
			t.Errorf("doctor lacks %q, or finds faults:\n%s", line, report)
		}
	}
	if out, err := s.kubectl("get", "ens", node.Name); err != nil || !strings.Contains(out, "Offered") {
		t.Errorf("kubectl get ens: %v\n%s", err, out)
	}

	s.must(s.delete("p1"))
	s.must(s.withdraw(a))
	cluster.Eventually(t, "release", settle, s.lists(a, ""))
	s.deleteAll(manifests, "DaemonSet")
	cluster.Eventually(t, "end of the daemon", settle, func() error { return none("processes", processes(isDaemon)) })
	log := s.uninstall()
	if after := s.files(); !slices.Equal(after, before) {
		t.Errorf("files after uninstall %q, before %q; it says:\n%s", after, before, log)
	}
	sockets, err := filepath.Glob(node.DevicePluginsDir + "/multi-eni-*.sock")
	if s.must(err); len(sockets) > 0 || s.exists(info) {
		t.Errorf("left: sockets %q, device-info %v", sockets, s.exists(info))
	}
}
