package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// problemsUntil waits until the inventory has those problems, and no others.
func (m *machine) problemsUntil(want ...string) {
	m.Helper()
	var got []string
	for begin := time.Now(); time.Since(begin) < 40*time.Second; <-time.After(10 * time.Millisecond) {
		inv, err := nodestate.ReadInventory(m.path("run/inventory.json"))
		got = nil
		for _, p := range inv.Problems {
			got = append(got, string(p.Reason))
		}
		if err == nil && slices.Equal(got, want) {
			return
		}
	}
	m.Fatalf("problems %q, want %q\n%s", got, want, m.stderr.String())
}

// logged counts the log lines that have both texts.
func (m *machine) logged(a, b string) (n int) {
	for line := range strings.Lines(m.stderr.String()) {
		if strings.Contains(line, a) && strings.Contains(line, b) {
			n++
		}
	}
	return n
}

// TestRunDegraded: the daemon works without inotify and with a busy port, logs each once, and needs no restart when both are available.
func TestRunDegraded(t *testing.T) {
	nstest.NeedUserNamespace(t)
	if nstest.Outside(t) {
		return
	}
	const instances = "/proc/sys/user/max_inotify_instances"
	m := newMachine(t, 1, 2)
	m.declare("a", 1)
	must(m, os.WriteFile(instances, []byte("0"), 0o644))
	l, err := net.Listen("tcp", defaultListen)
	must(m, err)
	m.start()
	m.until("a ready")
	m.problemsUntil("FilesUnwatched", "MetricsUnserved")
	m.declare("b", 2)
	m.until("a ready", "b ready")
	must(m, os.WriteFile(instances, []byte("100"), 0o644))
	must(m, l.Close())
	m.problemsUntil()
	m.end()
	for _, reason := range []string{"FilesUnwatched", "MetricsUnserved"} {
		for _, line := range []string{"problem found", "problem is over"} {
			if n := m.logged(line, reason); n != 1 {
				t.Errorf("%q of %s was logged %d times\n%s", line, reason, n, m.stderr.String())
			}
		}
	}
}

// TestInstallKeepWithoutInotify: a removed plugin comes back, and a message names the limit.
func TestInstallKeepWithoutInotify(t *testing.T) {
	nstest.NeedUserNamespace(t)
	if nstest.Outside(t) {
		return
	}
	must(t, os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0o644))
	i := newInstallation(t)
	k := i.keep()
	k.said(1, "installed, none")
	must(t, os.Remove(filepath.Join(i.to, "multi-eni")))
	k.said(2, "installed, none")
	if code := k.end(); code != 0 || strings.Count(k.errOut.String(), "fs.inotify.max_user_instances") != 1 {
		t.Errorf("exit code %d, %q", code, k.errOut.String())
	}
}
