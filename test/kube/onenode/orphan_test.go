package onenode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// crash ends a pod as a crash of the container runtime ends it, so that no DEL
// ever comes: shim, processes and netns are gone. The runtime is down already.
//
// A NIC comes back into the host when its netns dies, under the name that it had
// there; the veth that stands in for one would die too. It is carried over by
// hand.
func (s *stage) crash(r nodestate.Attachment) {
	s.Helper()
	inside, err := netns.GetFromPath(r.Netns.Path)
	s.must(err)
	defer inside.Close()
	for _, pid := range processes(func(args []string) bool {
		return strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && slices.Contains(args, r.ContainerID)
	}) {
		s.must(syscall.Kill(pid, syscall.SIGKILL))
	}
	id, err := os.Stat(r.Netns.Path)
	s.must(err)
	for _, pid := range processes(func([]string) bool { return true }) {
		if in, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/ns/net"); err == nil && os.SameFile(id, in) {
			s.must(syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	host, err := netns.Get()
	s.must(err)
	defer host.Close()
	s.must(unix.Unmount(r.Netns.Path, unix.MNT_DETACH))
	s.must(os.Remove(r.Netns.Path))
	s.must(nstest.In(fmt.Sprintf("/proc/self/fd/%d", int(inside)), func() error {
		l, err := netlink.LinkByName(r.IfName)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(host))
	}))
}

// record is the one of a pod.
func (s *stage) record(pod string) (nodestate.Attachment, error) {
	all, err := s.records()
	if err != nil {
		return nodestate.Attachment{}, err
	}
	for _, r := range all {
		if r.Pod == "default/"+pod {
			return r, nil
		}
	}
	return nodestate.Attachment{}, fmt.Errorf("pod %s has no record among %v", pod, all)
}

// unheld is a check: nothing of any attachment is left on the node.
func (s *stage) unheld() error {
	all, err := s.records()
	if err != nil {
		return err
	}
	leases, leaseErr := s.leases()
	late, lateErr := s.attachments().Restores()
	errs := []error{leaseErr, lateErr, want(join(all), ""), want(strings.Join(leases, " "), ""), want(join(late), "")}
	for _, e := range s.enis {
		errs = append(errs, s.home(e))
	}
	return errors.Join(errs...)
}

// TestOrphan: the container runtime dies with a pod, and never sends a DEL.
func TestOrphan(t *testing.T) {
	s := newStage(t, 1)
	a := s.enis[0]
	s.must(s.declare(a))
	cluster.Eventually(s.T, "config", settle, s.offers(a))
	s.startDevicePlugin()
	cluster.Eventually(s.T, "allocatable 1", restart, s.counts(a, 1))
	s.must(s.create("p1", a.resource()))
	cluster.Eventually(s.T, "pod", settle, s.inPhase("p1", corev1.PodRunning))
	before, err := s.record("p1")
	s.must(err)

	s.KillContainerd()
	started := false
	t.Cleanup(func() {
		if !started {
			s.StartContainerd(cleanup{t})
		}
	})
	s.crash(before)
	took := cluster.Eventually(s.T, "release of the orphan", orphanGrace+30*time.Second, s.unheld)
	t.Logf("released %v after its netns had gone", took)
	if took < orphanGrace {
		t.Errorf("released %v after its netns had gone, want no less than the grace of %v", took, orphanGrace)
	}
	s.StartContainerd(t)
	started = true
	// The kubelet makes the pod's sandbox again.
	cluster.Eventually(s.T, "the pod's device again", settle, func() error {
		now, err := s.record("p1")
		if err == nil && now.ContainerID == before.ContainerID {
			err = errors.New("the record is the old one")
		}
		return errors.Join(err, s.hasDevice("p1", a))
	})
	s.must(s.delete("p1"))
	cluster.Eventually(s.T, "release", settle, s.unheld)
}
