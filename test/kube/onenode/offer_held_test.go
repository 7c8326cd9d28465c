package onenode

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
)

// serves is a check: the daemon serves the resources of these ENIs.
func (s *stage) serves(enis ...eni) func() error {
	return func() error {
		m, err := s.memory()
		sockets, globErr := filepath.Glob(node.DevicePluginsDir + "/multi-eni-*.sock")
		var names []device.ResourceName
		for _, e := range enis {
			names = append(names, device.ResourceName(e.resource()))
		}
		resources := map[string]bool{} // a registration has a socket of its own, so that there are two for a moment
		for _, path := range sockets {
			name := filepath.Base(path)
			resources[name[:strings.LastIndexByte(name, '-')]] = true
		}
		return errors.Join(err, globErr, want(fmt.Sprint(m.Names), fmt.Sprint(names)), want(len(resources), len(enis)))
	}
}

// TestOfferHeldName: a resource whose last NodeENI is deleted stays served for as long as a pod has its device, so that
// its container can restart. Then its device is released, and its name goes.
func TestOfferHeldName(t *testing.T) {
	s := own(t, 2)
	a, b := s.enis[0], s.enis[1]
	s.run("p1", a)
	s.run("p2", b) // for as long as the kubelet lists no pod, it may not know the pods yet
	from := s.kubeletNow()
	s.must(s.withdraw(a))
	t.Logf("deleted to listed no more: %v", cluster.Eventually(t, "listed no more", settle, s.kubeletLists(b)))
	draining := func() error {
		return errors.Join(s.lists(a, nodestate.PhaseDraining)(), s.serves(a, b)(), s.kubeletLists(b)(), s.hasDevice("p1", a))
	}
	cluster.Eventually(t, "draining", settle, draining) // the kubelet learns of it before the inventory
	cluster.Holds(t, "served", 3*time.Second, draining)
	s.killContainer("p1")
	if gap := s.gaps(from, a, b); gap[b.resource()] > 0 {
		t.Errorf("the other resource had no device for %v", gap[b.resource()])
	}

	from = s.kubeletNow()
	s.restartDaemon()
	cluster.Eventually(t, "served by the next daemon", settle, func() error {
		_, err := s.registeredBy(from, a, b)
		return errors.Join(err, draining())
	})
	s.killContainer("p1")
	from = s.kubeletNow()
	s.KillKubelet()
	s.RunKubelet(t)
	cluster.Eventually(t, "served for the next kubelet", settle, func() error {
		_, err := s.registeredBy(from, a, b)
		return errors.Join(err, draining())
	})
	s.AwaitReady(t)

	s.must(s.delete("p1"))
	cluster.Eventually(t, "end of p1", settle, s.inPhase("p1", ""))
	t.Logf("end of the holder to release, soon after the kubelet's start: %v", cluster.Eventually(t, "release", settle, s.lists(a, "")))
	cluster.Eventually(t, "the name is gone, after the device was listed for a while", leaveTime+releaseBound, s.serves(b))
	s.must(errors.Join(s.home(a), s.kubeletLists(b)()))
}

// leaveTime is how long the daemon lists a device that has left the offer (docs/operations.md).
const leaveTime = 10 * time.Second

// bind makes a pod that the scheduler has placed already.
func (s *stage) bind(pod string, e eni) {
	s.Helper()
	_, err := s.Admin.CoreV1().Pods("default").Create(s.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod},
		Spec: corev1.PodSpec{
			NodeName: node.Name,
			Containers: []corev1.Container{{
				Name: "main", Image: node.PauseImage, ImagePullPolicy: corev1.PullNever,
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceName(e.resource()): resource.MustParse("1")}},
			}},
		},
	}, metav1.CreateOptions{})
	s.must(err)
}

// TestOfferDrain: of the pods that were bound while the kubelet was away, the one whose device drains by then fails, and
// no other.
func TestOfferDrain(t *testing.T) {
	s := own(t, 2)
	a, b := s.enis[0], s.enis[1]
	s.KillKubelet()
	s.bind("p1", a)
	s.bind("p2", b)
	s.must(s.withdraw(a))
	cluster.Eventually(t, "draining", settle, s.lists(a, nodestate.PhaseDraining))
	s.RunKubelet(t)
	cluster.Eventually(t, "pod p2", settle, s.inPhase("p2", corev1.PodRunning))
	cluster.Eventually(t, "failure of pod p1", settle, s.inPhase("p1", corev1.PodFailed))
	p, err := s.Admin.CoreV1().Pods("default").Get(s.Context(), "p1", metav1.GetOptions{})
	s.must(err)
	if p.Status.Reason != "UnexpectedAdmissionError" {
		t.Errorf("pod p1: %s: %s", p.Status.Reason, p.Status.Message)
	}
	t.Logf("pod p1: %s: %s", p.Status.Reason, p.Status.Message)
	s.must(s.hasDevice("p2", b))
	cluster.Eventually(t, "release", settle, s.lists(a, ""))
	s.AwaitReady(t)
}
