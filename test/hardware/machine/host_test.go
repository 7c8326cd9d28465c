package machine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
)

func TestOutcome(t *testing.T) {
	ended := errors.New("exit status")
	for name, tt := range map[string]struct {
		exit   int
		reboot bool
		status int
		err    string
	}{
		"tests passed":           {exit: protocol.ExitStatus(protocol.TestsEnded), status: 0},
		"tests failed":           {exit: protocol.ExitStatus(protocol.TestsEnded + 1), status: 1},
		"tests panicked":         {exit: protocol.ExitStatus(protocol.TestsEnded + 2), status: 2},
		"reboot":                 {exit: protocol.ExitStatus(protocol.Rebooting), reboot: true},
		"reboot that nobody ask": {exit: protocol.ExitStatus(protocol.Rebooting), err: "without a word"},
		"not ready":              {exit: protocol.ExitStatus(protocol.NotReady), err: "PID 1"},
		"kernel panic":           {exit: 0, err: "last words:\nKernel panic"},
		"QEMU's own failure":     {exit: 1, err: "without a word of the tests: exit status"},
		"QEMU killed":            {exit: -1, err: "QEMU died: exit status"},
	} {
		h := &host{}
		if tt.reboot {
			h.next = &protocol.Request{}
		}
		status, err := h.outcome(tt.exit, ended, nil, "Kernel panic")
		if status != tt.status || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %d, %v, want %d, %q", name, status, err, tt.status, tt.err)
		}
		if died := tt.exit == 0 || tt.exit == -1; errors.Is(err, errDied) != died {
			t.Errorf("%s: %v, want that the machine died: %v", name, err, died)
		}
	}
}

func TestShow(t *testing.T) {
	for text, failed := range map[string]bool{
		"--- PASS: TestX (0.0s)\r\n":             false,
		"--- FAIL: TestX (0.0s)\r\n":             true,
		"\x16--- FAIL: TestX (0.0s)\r\n":         true,
		"    --- FAIL: TestX/sub (0.0s)\r\n":     true,
		"machine: boot 1, kernel 6.1: up\r\n":    false,
		"x.go:1: said: --- FAIL: TestX (0.0s)\n": false,
	} {
		var out strings.Builder
		h := &host{out: &out}
		ups := 0
		if last := h.show(strings.NewReader(text), func() { ups++ }); last != out.String() || strings.Contains(last, "\r") {
			t.Errorf("%q: shows %q, last %q", text, out.String(), last)
		}
		if want := strings.Count(text, protocol.Ready); ups != want {
			t.Errorf("%q: up %d times, want %d", text, ups, want)
		}
		if h.failed != failed {
			t.Errorf("%q: failed = %v", text, h.failed)
		}
	}
}

func TestComplaints(t *testing.T) {
	var out strings.Builder
	c := &complaints{to: &out}
	for _, part := range []string{"qemu:", " warning: hub 0 is not connected to host network\nqemu: no", " such device\nqemu: x\n"} {
		if n, err := io.WriteString(c, part); n != len(part) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
	}
	if want := "qemu: no such device\nqemu: x\n"; out.String() != want {
		t.Errorf("passes on %q, want %q", out.String(), want)
	}
}

func TestFindKernel(t *testing.T) {
	for name, tt := range map[string]struct {
		files []string
		image string
	}{
		"bookworm": {[]string{"boot/vmlinuz-6.1.0-1-amd64", "lib/modules/6.1.0-1-amd64/modules.builtin"}, "boot/vmlinuz-6.1.0-1-amd64"},
		"trixie":   {[]string{"boot/vmlinuz-6.12.1-amd64", "usr/lib/modules/6.12.1-amd64/modules.builtin"}, "boot/vmlinuz-6.12.1-amd64"},
		"none":     {nil, ""},
		"half":     {[]string{"boot/vmlinuz-6.12.1-amd64"}, ""},
	} {
		root := t.TempDir()
		for _, f := range tt.files {
			write(t, filepath.Join(root, f), nil)
		}
		k, err := findKernel(root)
		if tt.image == "" {
			if err == nil || !strings.Contains(err.Error(), "make hardware-tools") {
				t.Errorf("%s: %v, want an error that says what to run", name, err)
			}
			continue
		}
		if err != nil || k.image != filepath.Join(root, tt.image) || filepath.Base(k.modules) != strings.TrimPrefix(filepath.Base(k.image), "vmlinuz-") {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, data, 0o755))
}

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	var parts []string
	for _, name := range []string{"usr/lib/x", "machine/y"} {
		f := newFiles()
		f.write(name, []byte(name))
		f.link("bin", "usr/bin")
		part := filepath.Join(dir, filepath.Base(name))
		must(t, f.save(part))
		parts = append(parts, part)
	}
	whole := filepath.Join(dir, "whole")
	must(t, join(whole, parts...))
	data, err := os.ReadFile(whole)
	must(t, err)
	first, err := os.Stat(parts[0])
	must(t, err)
	second := int(first.Size()+3) / 4 * 4
	for at, want := range map[int]string{0: "bin usr usr/lib usr/lib/x", second: "bin machine machine/y"} {
		records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data[at:])))
		must(t, err)
		var names []string
		for _, r := range records {
			names = append(names, r.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("archive at %d has %q, want %q", at, got, want)
		}
	}
}
