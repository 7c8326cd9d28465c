package guest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const cleanTime = 15 * time.Second

// Clean fails the test if it leaves a difference: links of the host (name, altnames, MAC, MTU, up),
// drivers and overrides of PCI functions, namespaces, records, leases, locks, processes. Call it first:
// the test's other cleanups run before its own.
func Clean(t testing.TB) {
	t.Helper()
	before := snapshot(t)
	t.Cleanup(func() {
		if t.Failed() {
			return // says enough already, and may have left anything
		}
		var after []string
		for began := time.Now(); time.Since(began) < cleanTime; time.Sleep(pollInterval) {
			if after = snapshot(t); slices.Equal(before, after) {
				return
			}
		}
		t.Errorf("not as before within %v (-before +after):\n%s", cleanTime, cmp.Diff(before, after))
	})
}

func snapshot(t testing.TB) []string {
	t.Helper()
	lines := map[string]bool{}
	add := func(format string, args ...any) { lines[fmt.Sprintf(format, args...)] = true }
	for _, l := range Links(t) {
		a := l.Attrs()
		add("link %s %s kind %s altnames %q mac %v mtu %d up %v", a.Name, PCIOf(a.Name), l.Type(), a.AltNames, a.HardwareAddr, a.MTU, a.Flags&1 != 0)
	}
	functions, err := os.ReadDir(Devices)
	Must(t, err)
	for _, f := range functions {
		override, err := os.ReadFile(filepath.Join(Devices, f.Name(), "driver_override"))
		if err != nil {
			continue // gone meanwhile
		}
		add("function %s driver %s override %s", f.Name(), Driver(f.Name()), strings.TrimSpace(string(override)))
	}
	for _, pattern := range []string{"/run/netns/*", "/var/lib/cni/multi-eni/*.json", "/var/lib/cni/multi-eni/*/*.json", "/var/lib/cni/networks/*/*"} {
		found, err := filepath.Glob(pattern)
		Must(t, err)
		for _, path := range found {
			if lasting := strings.HasPrefix(filepath.Base(path), "last_reserved_ip") || filepath.Base(path) == "lock"; !lasting {
				add("file %s", path)
			}
		}
	}
	for pid, name := range processes() {
		add("process %d %s", pid, name)
	}
	for _, l := range locks() {
		add("lock %s", l)
	}
	return slices.Sorted(maps.Keys(lines))
}

func processes() map[int]string {
	out := map[int]string{}
	found, _ := filepath.Glob("/proc/[0-9]*") // fails on a bad pattern only
	for _, dir := range found {
		program, err := os.Readlink(filepath.Join(dir, "exe"))
		pid, numeric := strconv.Atoi(filepath.Base(dir))
		if err == nil && numeric == nil {
			out[pid] = program
		}
	}
	return out
}

// locks are the locked files, as device:inode and PID (proc_locks(5)).
func locks() []string {
	data, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) >= 6 && f[1] != "->" {
			out = append(out, f[1]+" "+f[3]+" pid "+f[4]+" "+f[5])
		}
	}
	return out
}
