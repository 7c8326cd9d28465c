package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
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
	w, err := New(nil, at("etc", "a", "b"))
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
