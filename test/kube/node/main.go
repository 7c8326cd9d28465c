// Package node gives tests one real Kubernetes node: control plane, scheduler, controller manager, kubelet,
// containerd and runc, with running pods.
//
// It needs root, containerd and runc. A test binary runs once more in mount, network and pid namespaces of its own,
// with its own /run and /var/lib. The machine itself gets only a cgroup, which the test removes. Its TestMain is
//
//	func TestMain(m *testing.M) { os.Exit(node.Main(m)) }
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// insideEnv holds the work folder in the process that has namespaces, and partEnv the name of its part of the tests.
const (
	insideEnv = "MULTI_ENI_NODE_INSIDE"
	partEnv   = "MULTI_ENI_NODE_PART"
)

// Main runs a test binary's tests in namespaces of their own, and returns the exit status. Where that is
// impossible, each test that calls Start is skipped with the reason; with CI=true it fails.
// apart is for cluster.InParts: each part has a node of its own.
func Main(m *testing.M, apart ...string) int {
	if dir := os.Getenv(insideEnv); dir != "" {
		return inside(m, dir)
	}
	return cluster.Outside(m, func() error {
		if err := wanted(); err != nil {
			return err
		}
		return cluster.InParts(runPart, apart...)
	})
}

// runPart runs this test binary in namespaces.
func runPart(part string, out io.Writer, args ...string) error {
	dir, remove, err := cluster.WorkFolder(part)
	if err != nil {
		return err
	}
	defer remove()
	if err := makeCgroups(part); err != nil {
		return err
	}
	defer removeCgroups(part)
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", slices.Concat(os.Args[1:], args)...)
	cmd.Env = append(os.Environ(), insideEnv+"="+dir, partEnv+"="+part, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = out, out
	if out == io.Writer(os.Stdout) {
		cmd.Stderr = os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL, // it is the init of its pid namespace: all others go with it
	}
	return cmd.Run()
}

func wanted() error {
	if os.Getuid() != 0 {
		return errors.New("a kubelet needs root: sudo make test-kube")
	}
	for _, name := range []string{"kube/kubelet", "kube/kube-apiserver", "kube/pause", "cni/bridge"} {
		if _, err := nstest.Binary(name); err != nil {
			return err
		}
	}
	for _, name := range []string{"containerd", "ctr", "runc"} {
		if !installed(name) {
			return fmt.Errorf("%s: not found: install the Debian/Ubuntu packages containerd and runc", name)
		}
	}
	return nil
}

// installed also looks where Debian keeps root's tools.
func installed(name string) bool {
	return slices.ContainsFunc([]string{name, "/usr/sbin/" + name, "/sbin/" + name}, func(candidate string) bool {
		_, err := exec.LookPath(candidate)
		return err == nil
	})
}

func inside(m *testing.M, dir string) int {
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
		return 1
	}
	defer stopShared()
	return m.Run()
}
