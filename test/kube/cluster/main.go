// Package cluster gives tests a real Kubernetes API: etcd and kube-apiserver, the manifests of deploy/, and
// multi-enid as a process, under its own ServiceAccount and through a proxy that can fail.
//
// No root is needed: a test binary runs once more inside user, network and mount namespaces. API server, daemon
// and the veth pairs that stand in for ENIs share a netns, and nothing outlives it. Its TestMain is
//
//	func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
package cluster

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	insideEnv = "MULTI_ENI_CLUSTER_INSIDE"
	// partEnv names the part of the tests that this process runs: see InParts.
	partEnv = "MULTI_ENI_CLUSTER_PART"
	// unavailableEnv has the reason why there can be no cluster, for Available.
	unavailableEnv = "MULTI_ENI_KUBE_UNAVAILABLE"
	// LogsEnv names a folder that keeps the logs of the control plane.
	LogsEnv = "MULTI_ENI_KUBE_LOGS"
)

// Main runs a test binary's tests in namespaces of their own, and returns the exit status. Where that is
// impossible, each test that calls Start is skipped with the reason; with CI=true it fails. apart is for InParts.
func Main(m *testing.M, apart ...string) int {
	if os.Getenv(insideEnv) != "" {
		return inside(m)
	}
	return Outside(m, func() error {
		if _, err := programs(); err != nil {
			return err
		}
		return InParts(outside, apart...)
	})
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

// InParts calls run for all tests, or at the same time for each part of them, since most of their time is waiting. Part "1" has the tests whose
// names match apart[0], part "2" has the tests of apart[1], and so on; part "" has all others. No name may match twice. If the command line chooses
// among the tests, there is one part. args are further flags for the test binary. Part "" writes to stdout at once, and the others' output follows.
func InParts(run func(part string, out io.Writer, args ...string) error, apart ...string) error {
	if len(apart) == 0 || selected() {
		return run("", os.Stdout)
	}
	outputs, errs := make([]bytes.Buffer, len(apart)), make([]error, len(apart)+1)
	var parts sync.WaitGroup
	for i, tests := range apart {
		parts.Go(func() { errs[i] = run(strconv.Itoa(i+1), &outputs[i], "-test.run="+tests) })
	}
	errs[len(apart)] = run("", os.Stdout, "-test.skip="+strings.Join(apart, "|"))
	parts.Wait()
	for i := range outputs {
		_, err := outputs[i].WriteTo(os.Stdout)
		errs[i] = errors.Join(errs[i], err)
	}
	return errors.Join(errs...)
}

// selected says whether the command line chooses among the tests.
func selected() bool {
	flag.Parse()
	return slices.ContainsFunc([]string{"run", "skip", "list", "bench", "fuzz"}, func(name string) bool {
		return flag.Lookup("test."+name).Value.String() != ""
	})
}

func outside(part string, out io.Writer, args ...string) error {
	cmd := nstest.Command(context.Background(), "/proc/self/exe", slices.Concat(os.Args[1:], args)...)
	cmd.Env = append(os.Environ(), insideEnv+"=1", partEnv+"="+part)
	cmd.Stdout, cmd.Stderr = out, out
	if out == io.Writer(os.Stdout) {
		cmd.Stderr = os.Stderr
	}
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
