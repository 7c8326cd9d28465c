package onenode

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// crash ends a pod without DEL, as a crash of the container runtime, which is already down, does.
func (s *stage) crash(r nodestate.Attachment) {
	s.Helper()
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
	s.endNetns(r)
}

func (s *stage) orphan(r nodestate.Attachment, released func() error) {
	s.Helper()
	s.KillContainerd()
	started := false
	s.Cleanup(func() {
		if !started {
			s.StartContainerd(cleanup{s.T})
		}
	})
	s.crash(r)
	took := cluster.Eventually(s.T, "release of the orphan", orphanGrace+30*time.Second, released)
	s.Logf("released %v after its netns had gone", took)
	if took < orphanGrace {
		s.Errorf("released %v after its netns had gone, want no less than the grace of %v", took, orphanGrace)
	}
	s.StartContainerd(s.T)
	started = true
}

// endNetns ends a netns. A NIC returns to the host; its stand-in, a veth, would die and is moved by hand.
func (s *stage) endNetns(r nodestate.Attachment) {
	s.Helper()
	inside, err := netns.GetFromPath(r.Netns.Path)
	s.must(err)
	defer inside.Close()
	host, err := netns.Get()
	s.must(err)
	defer host.Close()
	s.must(unix.Unmount(r.Netns.Path, unix.MNT_DETACH))
	s.must(os.Remove(r.Netns.Path))
	if !r.Mode.Exclusive() {
		return
	}
	s.must(nstest.In(fmt.Sprintf("/proc/self/fd/%d", int(inside)), func() error {
		l, err := netlink.LinkByName(r.IfName)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(host))
	}))
}

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

func (s *stage) unheld() error {
	all, err := s.records()
	if err != nil {
		return err
	}
	leases, leaseErr := s.leases()
	restores, restoreErr := s.attachments().Restores()
	errs := []error{leaseErr, restoreErr, want(join(all), ""), want(strings.Join(leases, " "), ""), want(join(restores), "")}
	for _, e := range s.enis {
		errs = append(errs, s.home(e))
	}
	return errors.Join(errs...)
}

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

	s.orphan(before, s.unheld)
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

// TestOrphanInstalled: the shipped daemon, with its pod's capabilities and mounts only, releases an orphan.
func TestOrphanInstalled(t *testing.T) {
	s := bareNode(t, 1)
	s.install(s.render("", shipped))
	a := s.enis[0]
	s.must(s.declare(a))
	cluster.Eventually(t, "ready", settle, s.lists(a, nodestate.PhaseReady))
	running := processes(func(args []string) bool { return isDaemon(args) && slices.Contains(args, "run") })
	s.must(want(len(running), 1))
	for _, pid := range running {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		s.must(err)
		// capabilities(7): DAC_OVERRIDE is 1, NET_ADMIN 12, SYS_ADMIN 21.
		for _, line := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", fmt.Sprintf("CapBnd:\t%016x\n", 1<<1|1<<12|1<<21)} {
			if !strings.Contains(string(status), line) {
				t.Errorf("the daemon's process lacks %q:\n%s", line, status)
			}
		}
	}

	const path = "/run/netns/orphan"
	s.must(nstest.NewNetns(path))
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"orphan","type":"multi-eni","deviceID":%q,"select":{"nodeENI":%q},`+
		`"ipam":{"type":"host-local","ranges":[[{"subnet":%q}]]}}`, a.PCI, a.letter, a.cidr())
	_, err := invoke.ExecPluginWithResult(t.Context(), pluginPath, []byte(conf), &invoke.Args{
		Command: "ADD", ContainerID: "orphan", NetNS: path, IfName: "net1", Path: node.CNIBinDir,
	}, nil)
	s.must(err)
	all, err := s.records()
	s.must(err)
	s.must(want(len(all), 1))
	s.endNetns(all[0])
	took := cluster.Eventually(t, "release of the orphan", time.Minute+30*time.Second, s.unheld)
	t.Logf("released %v after its netns had gone", took)
	if took < time.Minute {
		t.Errorf("released %v after its netns had gone, want no less than the grace of a minute", took)
	}
	l, err := net.InterfaceByName(a.Name)
	s.must(err)
	if l.Flags&net.FlagUp == 0 {
		t.Errorf("%s is down, as it was not before", a.Name)
	}
}
