package onenode

import (
	"errors"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// TestOfferPod: a daemon in its pod takes devices over where no SR-IOV device plugin runs, and offers them again after
// the end of its pod, and of the kubelet, which removes its sockets.
func TestOfferPod(t *testing.T) {
	s := bareNode(t, 1)
	a := s.enis[0]
	s.unlabel()
	s.install(s.render("", shipped))
	s.must(s.declare(a))
	cluster.Eventually(t, "ready", settle, s.lists(a, "ready"))
	s.wish("deviceplugin")
	took := cluster.Eventually(t, "offered", settle, func() error {
		return errors.Join(s.offering("deviceplugin", "Offered")(), s.kubeletLists(a)())
	})
	t.Logf("label to Offered: %v", took)
	s.run("p1", a)

	from := s.kubeletNow()
	offered := func() error {
		_, err := s.registeredBy(from, a)
		return errors.Join(err, s.kubeletLists(a)())
	}
	if out, err := s.kubectl("-n", "kube-system", "delete", "pod", "-l", "app.kubernetes.io/name=multi-enid"); err != nil {
		t.Fatalf("kubectl delete: %v\n%s", err, out)
	}
	cluster.Eventually(t, "offered by the next pod", settle, offered)
	s.KillKubelet()
	from = s.kubeletNow()
	s.RunKubelet(t)
	cluster.Eventually(t, "offered to the next kubelet", settle, offered)
	s.AwaitReady(t)
	s.killContainer("p1")
	s.must(s.hasDevice("p1", a))
	s.must(s.delete("p1"))
	s.must(s.withdraw(a))
	cluster.Eventually(t, "release", settle, s.lists(a, ""))
	cluster.Eventually(t, "nothing is served", settle, s.serves())
}
