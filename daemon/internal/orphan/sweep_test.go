package orphan

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestReleasesOrphan: lease, lock and record of a pod that ended without DEL go after the grace, and not before.
func TestReleasesOrphan(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.orphan("c1", "a")
	if found, again := l.sweep(); len(found) > 0 || again != DefaultGrace {
		t.Errorf("sweep found %+v, again in %s; want nothing, again in %s", found, again, DefaultGrace)
	}
	l.advance(DefaultGrace - time.Second)
	if _, again := l.sweep(); again != time.Second {
		t.Errorf("again in %s; want 1s", again)
	}
	l.idle()
	if l.leases() != 1 {
		t.Fatalf("%d leases; want 1", l.leases())
	}
	l.advance(time.Second)
	if found, again := l.sweep(); len(found) > 0 || again != 0 {
		t.Errorf("sweep found %+v, again in %s", found, again)
	}
	l.wait()
	if l.leases() != 0 || l.recorded() != "[]" {
		t.Errorf("after the DEL: %d leases, records %s", l.leases(), l.recorded())
	}
	l.quiet()
	l.wantLog(1, "orphaned attachment found", "attachment=c1-net1", "pod=shop/c1")
	l.wantLog(1, "orphaned attachment released", "attachment=c1-net1")
	l.wantLog(2, "")

	// The next pod can have the device. The kernel ended the veth with its netns; a hardware link survives that.
	e := enis["a"]
	l.must(l.node.Attach(nstest.ENI{Name: e.Name, MAC: e.MAC}))
	l.add("c2", l.netns("c2"), "a")
}

// TestReleasesOrphanOfAnEarlierBoot looks at no netns: another pod's may be mounted at the path by now.
func TestReleasesOrphanOfAnEarlierBoot(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.must(unix.Mount("", "/run", "", unix.MS_PRIVATE, "")) // the folder cannot be watched
	path := l.netns("c1")
	ns, err := link.OpenNetns(path)
	l.must(err)
	defer ns.Close()
	l.record("c1", func(a *nodestate.Attachment) { a.BootID, a.Netns.Path = "6a1f4d0e-0000-4000-8000-000000000000", path })
	if found, again := l.sweep(); len(found) > 0 || again != DefaultGrace {
		t.Errorf("sweep found %+v, again in %s", found, again)
	}
	l.advance(DefaultGrace)
	l.sweep()
	l.wait()
	if l.recorded() != "[]" {
		t.Errorf("records %s; want none", l.recorded())
	}
	if got := link.Probe(ns.Netns); got != link.Alive {
		t.Errorf("the netns that is at that path now: %v", got)
	}
}

// TestPathReused: a pod whose path now leads to another pod's netns is gone; the other pod keeps everything.
func TestPathReused(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.orphan("c1", "a")
	path := l.netns("c1")
	l.add("c2", path, "b")
	ns, err := link.OpenNetns(path)
	l.must(err)
	defer ns.Close()
	in, err := ns.Open()
	l.must(err)
	defer in.Close()
	before, err := in.Links()
	l.must(err)
	l.sweep()
	l.advance(DefaultGrace)
	l.sweep()
	l.wait()
	if l.recorded() != "[c2]" || l.leases() != 1 {
		t.Errorf("records %s, %d leases; want those of c2", l.recorded(), l.leases())
	}
	after, err := in.Links()
	l.must(err)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("links of the living pod: %+v, before %+v", after, before)
	}
	l.advance(lookEvery)
	l.quiet()
}

// TestNeverForALivingPod: a daemon that sees nothing, or sees wrongly, leaves a possibly living pod its device for hours.
func TestNeverForALivingPod(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	l.plugin("multi-eni", "#!/bin/sh\necho \"$CNI_CONTAINERID\" >> "+l.file("ran")+"\nexit 1\n")
	l.pod("alive")

	l.must(os.WriteFile("/run/netns/file", nil, 0o600))
	l.must(os.Symlink("loop", "/run/netns/loop"))
	l.record("file", nil) // its mount has not arrived here
	l.record("loop", nil) // unreadable
	process := exec.CommandContext(t.Context(), "sleep", "1000")
	l.must(process.Start())
	l.record("process", func(a *nodestate.Attachment) { a.Netns.Path = fmt.Sprintf("/proc/%d/ns/net", process.Process.Pid) })
	l.record("nowhere", func(a *nodestate.Attachment) { a.Netns.Path = "" })
	writer := nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: "starting", IfName: "net1"}, BootID: l.boot, Mode: nodestate.ModeExclusive,
		Netns: nodestate.Netns{Path: "/run/netns/starting", Inode: 1}, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:07.0"}, Config: l.conf("b"),
	}
	intent, err := l.records().Begin(writer)
	l.must(err)

	for range 100 {
		l.quiet()
		l.advance(5 * time.Minute)
	}
	l.must(process.Process.Kill())
	process.Wait() //nolint:errcheck // it was killed
	for range 100 {
		l.quiet()
		l.advance(5 * time.Minute)
	}
	l.must(errors.Join(os.Remove("/run/netns/loop"), os.Symlink("alive", "/run/netns/loop"))) // readable, and another's: gone
	intent.Close()                                                                            // the writer is dead now
	if _, again := l.sweep(); again != DefaultGrace {
		t.Errorf("again in %s; want %s: the grace begins when the writer ends", again, DefaultGrace)
	}
	l.advance(DefaultGrace)
	l.sweep()
	l.wait()
	l.wait()
	ran, err := os.ReadFile(l.file("ran"))
	l.must(err)
	if got := strings.Fields(string(ran)); len(got) != 2 || !strings.Contains(string(ran), "starting") || !strings.Contains(string(ran), "loop") {
		t.Errorf("DELs were run for %q; want starting and loop", got)
	}
}

// view is a thread with its own mount namespace, like a container.
type view struct{ calls chan func() }

func newView(t *testing.T, prepare func() error) view {
	t.Helper()
	v, ready := view{make(chan func())}, make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its mounts
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = prepare()
		}
		ready <- err
		for f := range v.calls {
			f()
		}
	}()
	t.Cleanup(func() { close(v.calls) })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return v
}

func (v view) do(f func()) {
	done := make(chan struct{})
	v.calls <- func() { defer close(done); f() }
	<-done
}

func mountAt(source, at, fsType string, flags uintptr) error {
	if err := unix.Mount(source, at, fsType, flags, ""); err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	return nil
}

// TestInAContainer: a daemon in its own mount namespace learns of a pod's end only if the host's folder is propagated.
func TestInAContainer(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	for _, tt := range []struct {
		name     string
		prepare  func() error
		releases bool
	}{
		{"propagated", func() error { return mountAt("", "/run", "", unix.MS_SLAVE|unix.MS_REC) }, true},
		{"not propagated", func() error { return mountAt("", "/run", "", unix.MS_PRIVATE|unix.MS_REC) }, false},
		{"another folder", func() error {
			return errors.Join(mountAt("", "/run", "", unix.MS_PRIVATE|unix.MS_REC), mountAt("tmpfs", "/run", "tmpfs", 0), os.Mkdir("/run/netns", 0o755))
		}, false},
		{"another folder, in a peer group", func() error {
			return errors.Join(mountAt("", "/run", "", unix.MS_PRIVATE|unix.MS_REC), mountAt("tmpfs", "/run", "tmpfs", 0), os.Mkdir("/run/netns", 0o755),
				mountAt("", "/run", "", unix.MS_SHARED))
		}, false},
		{"no folder", func() error {
			return errors.Join(mountAt("", "/run", "", unix.MS_PRIVATE|unix.MS_REC), mountAt("tmpfs", "/run", "tmpfs", 0), mountAt("", "/run", "", unix.MS_SHARED))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.T, l.s = t, l.sweeper()
			v := newView(t, tt.prepare)
			living, dead := l.pod("living"), l.pod("dead")
			defer nstest.DeleteNetns(living.Path)   //nolint:errcheck // the test is over
			defer os.RemoveAll(string(l.records())) //nolint:errcheck // the folder goes with the test
			sweep := func() (found []nodestate.Problem) {
				v.do(func() { found, _ = l.sweep() })
				return found
			}
			sweep()
			l.must(nstest.DeleteNetns(dead.Path))
			for range 3 {
				l.advance(DefaultGrace)
				found := sweep()
				if tt.releases {
					if len(found) > 0 {
						t.Errorf("found %+v", found)
					}
					continue
				}
				if len(found) != 1 || found[0].Reason != "OrphansUnwatched" || !strings.Contains(found[0].Message, `"/run/netns"`) ||
					!strings.Contains(found[0].Message, "HostToContainer") {
					t.Errorf("found %+v; want one %s", found, "OrphansUnwatched")
				}
			}
			if !tt.releases {
				l.idle()
				if l.recorded() != "[dead living]" {
					t.Errorf("records %s; want both", l.recorded())
				}
				return
			}
			l.wait()
			if l.recorded() != "[living]" {
				t.Errorf("records %s; want that of the living", l.recorded())
			}
		})
	}
}

// TestLooksSeldom: any number of sweeps looks at a netns once in ten seconds; at a new record at once.
func TestLooksSeldom(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	l := newLab(t)
	pod := l.pod("c1")
	l.quiet()
	l.must(nstest.DeleteNetns(pod.Path))
	for i := range 9 {
		if _, again := l.sweep(); again != lookEvery-time.Duration(i)*time.Second {
			t.Errorf("after %d s again in %s; want when it may be looked at", i, again)
		}
		l.advance(time.Second)
	}
	l.record("c2", nil)
	if _, again := l.sweep(); again != time.Second || l.s.fates[nodestate.AttachmentID{ContainerID: "c2", IfName: "net1"}].gone.IsZero() {
		t.Errorf("again in %s; want 1s, and the new record looked at", again)
	}
	l.advance(time.Second)
	if _, again := l.sweep(); again != DefaultGrace-time.Second {
		t.Errorf("again in %s; want a second less", again)
	}
	l.advance(-24 * time.Hour) // a clock that is set back begins anew, and does not wait for the old time
	if _, again := l.sweep(); again != DefaultGrace {
		t.Errorf("again in %s; want %s", again, DefaultGrace)
	}
	l.advance(DefaultGrace - time.Second)
	l.sweep()
	l.idle()
	l.advance(time.Second)
	l.sweep()
	l.wait()
	l.wait()
	if l.recorded() != "[]" {
		t.Errorf("records %s; want none", l.recorded())
	}
}
