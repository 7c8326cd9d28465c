package link_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const firstEnv = "MULTI_ENI_TEST_FIRST"

// TestProbeByProcess: a netns that a process names is alive as long as any process
// is in it, also under another PID, and gone with the last one.
func TestProbeByProcess(t *testing.T) {
	if os.Getenv(firstEnv) == "" {
		if nstest.Outside(t) {
			return
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), firstEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("in a PID namespace of its own: %v\n%s", err, out)
		}
		return
	}
	must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
	start := func(in string) *exec.Cmd {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sleep", "1000")
		if in == "" {
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
			must(t, cmd.Start())
		} else {
			must(t, nstest.In(in, cmd.Start))
		}
		t.Cleanup(func() {
			cmd.Process.Kill() //nolint:errcheck // it may have ended
			cmd.Wait()         //nolint:errcheck // it was killed
		})
		return cmd
	}
	path := func(cmd *exec.Cmd) string { return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid) }
	end := func(cmd *exec.Cmd) {
		t.Helper()
		must(t, cmd.Process.Kill())
		cmd.Wait() //nolint:errcheck // it was killed
	}
	sandbox, other := start(""), start("")
	container := start(path(sandbox))
	ns, err := link.OpenNetns(path(sandbox))
	must(t, err)
	want := ns.Netns
	ns.Close()
	expect := func(when string, p link.Presence) {
		t.Helper()
		if got := link.Probe(want); got != p {
			t.Errorf("%s: Probe = %v; want %v", when, got, p)
		}
	}
	expect("at first", link.Alive)
	end(sandbox)
	expect("with a container left", link.Alive)
	want.Path = path(other)
	expect("with the PID reused", link.Alive)
	namespace := want.PIDNamespace
	for _, elsewhere := range []uint64{0, namespace + 1} {
		want.PIDNamespace = elsewhere
		expect("from another PID namespace", link.Unknown)
	}
	want.PIDNamespace = namespace
	must(t, container.Process.Kill())
	for link.Probe(want) == link.Alive && t.Context().Err() == nil { // it is dying
	}
	expect("with a zombie left", link.Gone)
	end(container)
	expect("with the PID reused, and all ended", link.Gone)
	end(other)
	expect("with no such PID", link.Gone)
}
