package filewatch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestWatcher: every step in a watched folder is noticed, and no other.
func TestWatcher(t *testing.T) {
	root := t.TempDir()
	at := func(elem ...string) string { return filepath.Join(root, filepath.Join(elem...)) }
	mkdir := func(path string) func() error { return func() error { return os.MkdirAll(path, 0o755) } }
	write := func(path string) func() error { return func() error { return os.WriteFile(path, []byte("x"), 0o644) } }
	steps := []struct {
		name  string
		do    func() error
		quiet bool
	}{
		{"a folder on the way", mkdir(at("etc")), false},
		{"something beside it", write(at("other")), true},
		{"the folder, two levels at once", mkdir(at("etc", "a", "b")), false},
		{"a file in it", write(at("etc", "a", "b", "one")), false},
		{"the file again", write(at("etc", "a", "b", "one")), false},
		{"something beside the folder", write(at("etc", "a", "beside")), true},
		{"another file renamed over it", func() error {
			if err := write(at("etc", "a", "b", ".tmp"))(); err != nil {
				return err
			}
			return os.Rename(at("etc", "a", "b", ".tmp"), at("etc", "a", "b", "one"))
		}, false},
		{"a folder below it", mkdir(at("etc", "a", "b", "sub")), false},
		{"a file below that", write(at("etc", "a", "b", "sub", "x")), true},
		{"the folder replaced", func() error {
			if err := os.MkdirAll(at("etc", "a", "new"), 0o755); err != nil {
				return err
			}
			if err := os.Rename(at("etc", "a", "b"), at("etc", "a", "old")); err != nil {
				return err
			}
			return os.Rename(at("etc", "a", "new"), at("etc", "a", "b"))
		}, false},
		{"a file in the new one", write(at("etc", "a", "b", "two")), false},
		{"a file in the old one", write(at("etc", "a", "old", "two")), true},
		{"everything removed", func() error { return os.RemoveAll(at("etc")) }, false},
		{"and there again", mkdir(at("etc", "a", "b")), false},
		{"with a file", write(at("etc", "a", "b", "three")), false},
	}
	w, err := New(nil, "files", at("etc", "a", "b"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, func() { events <- struct{}{} })
	}()
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		wait := 10 * time.Second
		if s.quiet {
			wait = 50 * time.Millisecond // a late event would be taken for the next step's, and found there
		}
		noticed := collectEvents(events, wait)
		if noticed == s.quiet {
			t.Fatalf("%s: noticed %v, want %v", s.name, noticed, !s.quiet)
		}
	}
	cancel()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("does not end with its context")
	}
}

// collectEvents waits for a first event, then for the end of its burst.
func collectEvents(events <-chan struct{}, first time.Duration) bool {
	noticed := false
	for wait := first; ; wait = 30 * time.Millisecond {
		select {
		case <-events:
			noticed = true
		case <-time.After(wait):
			return noticed
		}
	}
}

// limit sets a limit of this user namespace (/proc/sys/user).
func limit(t *testing.T, name string, n int) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/user/"+name, fmt.Appendln(nil, n), 0o644))
}

// TestWithoutInotify: the kernel gives no instance, or no watch, as it does to a user at the limit. Changes are noticed all the same, the
// problem names the limit, and ends when that is raised.
func TestWithoutInotify(t *testing.T) {
	nstest.NeedUserNamespace(t)
	if nstest.Outside(t) {
		return
	}
	for name, sysctl := range map[string]string{"max_inotify_instances": "fs.inotify.max_user_instances", "max_inotify_watches": "fs.inotify.max_user_watches"} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			services := &problem.Services{}
			limit(t, name, 0)
			w, err := New(services, "files", folder)
			must(t, err)
			p := services.Problems()
			if len(p) != 1 || p[0].Reason != "FilesUnwatched" || !strings.Contains(p[0].Message, sysctl) {
				t.Fatalf("problems %+v, want one that names %s", p, sysctl)
			}
			ctx, cancel := context.WithCancel(t.Context())
			events := make(chan struct{}, 100)
			ended := make(chan struct{})
			go func() { defer close(ended); w.Run(ctx, func() { events <- struct{}{} }) }()
			touch := func(file string) { must(t, os.WriteFile(filepath.Join(folder, file), []byte("x"), 0o600)) }
			touch("one")
			if !collectEvents(events, 4*pollEvery) {
				t.Fatal("a new file was not noticed")
			}
			limit(t, name, 1000)
			for deadline := time.Now().Add(6 * pollEvery); len(services.Problems()) > 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("problems %+v though the limit was raised", services.Problems())
				}
			}
			collectEvents(events, time.Second) // of the look that goes with it
			touch("two")
			if !collectEvents(events, pollEvery/2) {
				t.Error("a new file was not noticed at once")
			}
			cancel()
			<-ended
		})
	}
}

// TestOpenFilesAreNoInstances: EMFILE has two causes. The message names only the observed one.
func TestOpenFilesAreNoInstances(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	folder := t.TempDir()
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}))
	services := &problem.Services{}
	w, err := New(services, "files", folder)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	must(t, err)
	w.close()
	if p := services.Problems(); len(p) != 1 || strings.Contains(p[0].Message, "max_user_instances") || !strings.Contains(p[0].Message, "LimitNOFILE") {
		t.Errorf("problems %+v", p)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
