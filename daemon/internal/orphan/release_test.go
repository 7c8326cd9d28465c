package orphan

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestPluginTrouble: a plugin that fails or cannot run is a problem in stable words while that lasts. It is logged once and retried ever later.
func TestPluginTrouble(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	path := filepath.Join(l.bin, "multi-eni")
	for _, tt := range []struct {
		name    string
		make    func()
		reason  string
		says    string
		details string
	}{
		{"missing", func() {}, "OrphanPluginUnusable", "no such file", ""},
		{"a link", func() { l.must(os.Symlink(filepath.Join(l.bin, "host-local"), path)) }, "OrphanPluginUnusable", "symbolic link", ""},
		{"writable by others", func() { l.plugin("multi-eni", "#!/bin/sh\n"); l.must(os.Chmod(path, 0o777)) }, "OrphanPluginUnusable", "writable by others", ""},
		{"failing", func() {
			l.plugin("multi-eni", "#!/bin/sh\necho '{\"code\":11,\"msg\":\"try again '$$'\",\"details\":\"later\"}'\nexit 1\n")
		}, "OrphanNotReleased", "the plugin's DEL fails", "try again"},
		{"failing without words", func() { l.plugin("multi-eni", "#!/bin/sh\nexit 3\n") }, "OrphanNotReleased", "the plugin's DEL fails", "it said nothing"},
		{"crashing", func() { l.plugin("multi-eni", "#!/bin/sh\necho dead >&2\nkill -SEGV $$\n") }, "OrphanNotReleased", "the plugin's DEL fails", "dead"},
		{"without effect", func() { l.plugin("multi-eni", "#!/bin/sh\n") }, "OrphanNotReleased", "--attachments-dir", ""},
		{"hanging", func() { l.plugin("multi-eni", "#!/bin/sh\nsleep 1000\n"); l.s.timeout = 50 * time.Millisecond }, "OrphanNotReleased",
			"the plugin's DEL fails", "deadline"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.T = t
			l.s = l.sweeper()
			l.logged = lockedBuffer{}
			l.must(os.RemoveAll(path))
			tt.make()
			l.record("c1", func(a *nodestate.Attachment) { a.BootID = "6a1f4d0e-0000-4000-8000-000000000000" })
			l.sweep()
			l.advance(DefaultGrace)
			l.sweep()
			l.wait()
			found, again := l.sweep()
			if len(found) != 1 || string(found[0].Reason) != tt.reason || !strings.Contains(found[0].Message, tt.says) || again != retryFirst {
				t.Fatalf("found %+v, again in %s; want %s with %q, again in %s", found, again, tt.reason, tt.says, retryFirst)
			}
			for _, minutes := range []int{1, 2, 4, 8, 16, 30, 30} {
				wait := time.Duration(minutes) * time.Minute
				l.advance(wait - time.Second)
				l.sweep()
				l.idle()
				l.advance(time.Second)
				l.sweep()
				l.wait()
				if same, _ := l.sweep(); len(same) != 1 || same[0] != found[0] {
					t.Fatalf("%s later it found %+v; want %+v", wait, same, found)
				}
			}
			l.wantLog(1, "cannot be released", tt.details)
			l.must(os.RemoveAll(path))
			l.s.timeout = delTimeout
			l.install("multi-eni", "multi-eni")
			l.advance(retryLatest)
			l.sweep()
			l.wait()
			l.quiet()
			l.wantLog(1, "found")
			l.wantLog(1, "released", "level=info")
			if l.recorded() != "[]" {
				t.Errorf("records %s", l.recorded())
			}
		})
	}
}

// TestRunsAsTheRecordSays: the plugin gets ADD's parameters, but neither the recorded netns nor the recorded folders.
func TestRunsAsTheRecordSays(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.plugin("multi-eni", "#!/bin/sh\n{ env | grep ^CNI_ | sort; cat; } > "+l.file("seen")+"\n")
	a := l.record("c1", func(a *nodestate.Attachment) { a.BootID = "6a1f4d0e-0000-4000-8000-000000000000" })
	l.sweep()
	l.advance(DefaultGrace)
	l.sweep()
	l.wait()
	got, err := os.ReadFile(l.file("seen"))
	l.must(err)
	want := "CNI_ARGS=K8S_POD_NAME=c1\nCNI_COMMAND=DEL\nCNI_CONTAINERID=c1\nCNI_IFNAME=net1\nCNI_NETNS=\nCNI_PATH=" + l.bin + "\n"
	head, conf, _ := strings.Cut(string(got), "{")
	var given bytes.Buffer
	l.must(json.Compact(&given, []byte("{"+conf)))
	if head != want || given.String() != string(a.Config) {
		t.Errorf("the plugin was given\n%s\nwant\n%s%s", got, want, a.Config)
	}
}

// TestFewAtOnce: a node full of orphans starts few plugins at a time.
func TestFewAtOnce(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.install("multi-eni", "real")
	l.must(os.Mkdir(l.file("at"), 0o755))
	l.plugin("multi-eni", fmt.Sprintf("#!/bin/sh\n: > %[1]s/$CNI_CONTAINERID\nls %[1]s | wc -l >> %[2]s\nsleep 0.05\n%[3]s/real\nrm %[1]s/$CNI_CONTAINERID\n",
		l.file("at"), l.file("most"), l.bin))
	for i := range 7 {
		l.record(fmt.Sprintf("c%d", i), func(a *nodestate.Attachment) { a.BootID = "6a1f4d0e-0000-4000-8000-000000000000" })
	}
	l.sweep()
	l.advance(DefaultGrace)
	for range 7 {
		l.sweep() // each wake is a Sync
		l.wait()
	}
	if l.recorded() != "[]" {
		t.Errorf("records %s; want none", l.recorded())
	}
	most, err := os.ReadFile(l.file("most"))
	l.must(err)
	for _, n := range strings.Fields(string(most)) {
		if n, err := strconv.Atoi(n); err != nil || n > atOnce {
			t.Errorf("%d DELs at once (%v); want at most %d", n, err, atOnce)
		}
	}
	l.wantLog(7, "orphaned attachment released")
}

// TestStopDuringDEL: SIGTERM ends the plugin and its children, and leaves the record for the next daemon.
func TestStopDuringDEL(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.install("multi-eni", "real")
	pids := l.file("pids")
	l.plugin("multi-eni", "#!/bin/sh\nsleep 1000 &\necho $$ $! > "+pids+".new\nmv "+pids+".new "+pids+"\nwait\n")
	l.record("c1", func(a *nodestate.Attachment) { a.BootID = "6a1f4d0e-0000-4000-8000-000000000000" })
	ctx, stop := context.WithCancel(t.Context())
	all, _, err := l.records().List()
	l.must(err)
	l.s.Sweep(ctx, all)
	l.advance(DefaultGrace)
	l.s.Sweep(ctx, all)
	var running []byte
	for deadline := time.Now().Add(10 * time.Second); running == nil; {
		if running, err = os.ReadFile(pids); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	stop()
	begin := time.Now()
	l.s.Wait()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the end took %s", took)
	}
	for _, f := range strings.Fields(string(running)) {
		pid, err := strconv.Atoi(f)
		l.must(err)
		for deadline := time.Now().Add(5 * time.Second); ; {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || strings.Contains(string(stat), ") Z ") { // a zombie until its new parent asks
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("process %d still runs: %s", pid, stat)
				break
			}
		}
	}
	l.wantLog(0, "cannot be released")
	if l.recorded() != "[c1]" {
		t.Fatalf("records %s; want that of c1", l.recorded())
	}
	l.s = l.sweeper() // the next daemon
	l.must(os.Rename(filepath.Join(l.bin, "real"), filepath.Join(l.bin, "multi-eni")))
	l.sweep()
	l.advance(DefaultGrace)
	l.sweep()
	<-l.woken // of the daemon before
	l.wait()
	if l.recorded() != "[]" {
		t.Errorf("records %s; want none", l.recorded())
	}
}
