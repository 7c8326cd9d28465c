// Package cluster gives tests a real Kubernetes API: etcd and kube-apiserver, the manifests of deploy/, and
// multi-enid as a process, under its own ServiceAccount and through a proxy that can fail.
//
// No root is needed: a test binary runs once more inside user, network and mount namespaces. API server, daemon
// and the veth pairs that stand in for ENIs share a netns, and nothing outlives it. Its TestMain is
//
//	func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	insideEnv = "MULTI_ENI_CLUSTER_INSIDE"
	// unavailableEnv has the reason why there can be no cluster, for Available.
	unavailableEnv = "MULTI_ENI_KUBE_UNAVAILABLE"
	// LogsEnv names a folder that keeps the logs of the control plane.
	LogsEnv = "MULTI_ENI_KUBE_LOGS"
)

// Main runs a test binary's tests in namespaces of their own, and returns the exit status. Where that is
// impossible, each test that calls Start is skipped with the reason; with CI=true it fails.
func Main(m *testing.M) int {
	if os.Getenv(insideEnv) != "" {
		return inside(m)
	}
	return Outside(m, outside)
}

// Outside returns the exit status of again, which runs this test binary once more in namespaces. Where
// that is impossible it runs the tests here, and Available ends them with the reason.
func Outside(m *testing.M, again func() error) int {
	err := again()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	os.Setenv(unavailableEnv, err.Error()) //nolint:errcheck,gosec // the name is a constant
	return m.Run()
}

// Available skips a test without the namespaces or programs that it needs. With CI=true it fails the test.
func Available(t testing.TB) {
	t.Helper()
	if reason := os.Getenv(unavailableEnv); reason != "" {
		Unavailable(t, reason)
	}
}

func outside() error {
	if _, err := programs(); err != nil {
		return err
	}
	cmd := nstest.Command(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	err := cmd.Run()
	if denied := nstest.Denied(err); denied != nil {
		return denied
	}
	return err
}

func programs() (string, error) {
	bin, err := nstest.Binary("kube/kube-apiserver")
	return filepath.Dir(bin), err
}

func inside(m *testing.M) int {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
		return 1
	}
	defer stopShared()
	return m.Run()
}

func prepare() error {
	if err := nstest.Prepare(); err != nil {
		return err
	}
	return plane.Uplink()
}

// WorkFolder returns the folder for the files of a control plane, one of each name, and a function that removes it unless
// LogsEnv keeps it.
func WorkFolder(name string) (dir string, remove func(), err error) {
	if keep := os.Getenv(LogsEnv); keep != "" {
		keep = filepath.Join(keep, name)
		return keep, func() {}, os.MkdirAll(keep, 0o755)
	}
	dir, err = os.MkdirTemp("", "multi-eni-kube")
	return dir, func() { os.RemoveAll(dir) }, err //nolint:errcheck,gosec // nobody could do anything about it
}

func start(ctx context.Context, dir string) (*plane.Plane, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	return plane.Start(ctx, plane.Options{Dir: dir, Bin: bin, Addresses: plane.UplinkAddresses()})
}
