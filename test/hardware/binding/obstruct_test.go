package binding

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const (
	unbindKernel = "/sys/bus/pci/drivers/e1000e/unbind"
	unbindVFIO   = "/sys/bus/pci/drivers/vfio-pci/unbind"
	driversProbe = "/sys/bus/pci/drivers_probe"
)

func cover(t *testing.T, path, with string) (uncover func()) {
	t.Helper()
	target, err := filepath.EvalSymlinks(path)
	guest.Must(t, err)
	if err := unix.Mount(with, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("put %s over %s: %v", with, target, err)
	}
	covered := true
	uncover = func() {
		if covered {
			covered = false
			try(t, unix.Unmount(target, unix.MNT_DETACH))
		}
	}
	t.Cleanup(uncover)
	return uncover
}

func refuse(t *testing.T, path string) (uncover func()) {
	t.Helper()
	return cover(t, path, "/dev/full")
}

func swallow(t *testing.T, path, content string) (uncover func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "swallow")
	guest.Must(t, os.WriteFile(file, []byte(content), 0o600))
	return cover(t, path, file)
}

// gate makes everybody who opens a file of the kernel's for writing wait.
func gate(t *testing.T, path string) (uncover func()) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "gate")
	guest.Must(t, unix.Mkfifo(fifo, 0o600))
	return cover(t, path, fifo)
}

// children are the processes that change drivers now. Processes older than the tests are skipped.
func children() []int {
	var pids []int
	found, _ := os.ReadDir("/proc") // cannot fail
	for _, entry := range found {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid <= os.Getpid() {
			continue
		}
		data, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && slices.Contains(strings.Split(string(data), "\x00"), "bind-driver") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func child(t *testing.T, function string) int {
	t.Helper()
	var pid int
	guest.Eventually(t, "a child that waits in "+function, soon, func() bool {
		for _, pid = range children() {
			tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/wchan")
			for _, path := range tasks {
				if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), function) {
					return true
				}
			}
		}
		return false
	})
	return pid
}

// The kernel functions that wait.
const (
	inGate = "wait_for_partner" // to open a FIFO (fs/pipe.c)
	inVFIO = "vfio"             // for the last program that has the device open
)
