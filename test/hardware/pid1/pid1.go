// Package pid1 is the first program of a machine. It sets up the node that the tests expect, runs them,
// and ends the boot.
package pid1

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// panicked is the exit status of a test binary that panicked.
const panicked = 2

// reportTime is how long before the boot's end the tests end, to report where they hang.
const reportTime = 10 * time.Second

// exitPort is the I/O port of QEMU's isa-debug-exit device.
const exitPort = 0xf4

// Main prepares the machine, runs the calling program again with the config's arguments, and ends the boot.
func Main() {
	code, err := run()
	if err != nil {
		code = protocol.NotReady
		fmt.Fprintln(os.Stderr, "pid 1:", err)
	}
	if err := leave(code); err != nil {
		fmt.Fprintln(os.Stderr, "pid 1: end the boot:", err)
		os.Exit(1) // the kernel panics, and QEMU ends all the same
	}
	for { // QEMU is about to end
		if err := unix.Pause(); !errors.Is(err, unix.EINTR) {
			os.Exit(1)
		}
	}
}

func run() (int, error) {
	if err := mountAll(); err != nil {
		return 0, err
	}
	if err := useConsole(); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(protocol.ConfigPath)
	if err != nil {
		return 0, fmt.Errorf("read the config: %w", err)
	}
	var cfg protocol.Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return 0, fmt.Errorf("decode the config: %w", err)
	}
	up := uptime()
	if err := prepare(cfg); err != nil {
		return 0, err
	}
	fmt.Printf(protocol.Ready+"%d, kernel %s: up after %s s, ready after %s s\n", cfg.Boot, release(), up, uptime())
	status, err := runTests(cfg)
	switch {
	case err != nil:
		return 0, err
	case status == protocol.RebootStatus:
		return protocol.Rebooting, nil
	}
	return protocol.TestsEnded + min(status, 0xf), nil
}

// leave ends the boot with a code, after the console has all output. QEMU ends some time after leave has returned.
func leave(code int) error {
	// tcdrain(3); Go's own signals interrupt it.
	for errors.Is(unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1), unix.EINTR) {
	}
	port, err := os.OpenFile("/dev/port", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = port.WriteAt([]byte{byte(code)}, exitPort)
	return err
}

// mountAll makes an ordinary node's mounts: all are shared, as under systemd; /run and /tmp are tmpfs.
func mountAll() error {
	for _, m := range []struct{ fstype, path string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/dev/shm"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
		{"cgroup2", "/sys/fs/cgroup"}, {"bpf", "/sys/fs/bpf"}, {"debugfs", "/sys/kernel/debug"},
	} {
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.path, m.fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.fstype, m.path, err)
		}
	}
	// The kernel's own initramfs leaves the root folder writable for everybody, which DPDK refuses.
	if err := os.Chmod("/", 0o755); err != nil {
		return err
	}
	if err := os.Chmod("/tmp", 0o777|fs.ModeSticky); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	return nil
}

// useConsole makes the console standard input and output: without /dev/console the kernel has opened none.
func useConsole() error {
	console, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup2(int(console.Fd()), fd); err != nil {
			return fmt.Errorf("use the console: %w", err)
		}
	}
	return nil
}

func prepare(cfg protocol.Config) error {
	for _, m := range cfg.Modules {
		if err := loadModule(filepath.Join("/lib/modules", release(), m)); err != nil {
			return fmt.Errorf("load module %s: %w", m, err)
		}
	}
	if cfg.Hugepages > 0 {
		if err := reserveHugepages(cfg.Hugepages); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/etc/hostname", []byte("node1\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("node1")); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	// The metadata service of the tests listens there.
	if err := nstest.LoopbackUp(); err != nil {
		return err
	}
	return restoreKept(protocol.KeptPath, "/")
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) { // built in, or asked for by the kernel meanwhile
		return nil
	}
	return err
}

func reserveHugepages(pages int) error {
	const at, count = "/dev/hugepages", "/proc/sys/vm/nr_hugepages"
	if err := os.WriteFile(count, []byte(strconv.Itoa(pages)), 0o644); err != nil {
		return fmt.Errorf("reserve hugepages: %w", err)
	}
	got, err := os.ReadFile(count)
	if err != nil {
		return fmt.Errorf("reserve hugepages: %w", err)
	}
	if n := strings.TrimSpace(string(got)); n != strconv.Itoa(pages) {
		return fmt.Errorf("reserve hugepages: the kernel gave %s of %d: give the machine more memory", n, pages)
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("hugetlbfs", at, "hugetlbfs", 0, ""); err != nil {
		return fmt.Errorf("mount hugetlbfs: %w", err)
	}
	return nil
}

// restoreKept unpacks an earlier boot's files, a tar archive, below root. There may be none.
func restoreKept(from, root string) error {
	f, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = restore(root, h, r)
		}
		if err != nil {
			return fmt.Errorf("restore kept files: %w", err)
		}
	}
}

func restore(root string, h *tar.Header, content io.Reader) error {
	path, mode := filepath.Join(root, h.Name), h.FileInfo().Mode().Perm()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.MkdirAll(path, mode); err != nil {
			return err
		}
		return os.Chmod(path, mode)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	case tar.TypeReg:
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, data, mode); err != nil {
			return err
		}
		return os.Chtimes(path, h.ModTime, h.ModTime)
	}
	return fmt.Errorf("%s: neither file, folder nor symbolic link", path)
}

// runTests runs the test binary and returns its exit status. It reaps the machine's orphans, as PID 1 must.
func runTests(cfg protocol.Config) (int, error) {
	limit, err := testLimit(cfg.Limit, uptime())
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", append(slices.Clone(cfg.Args), "-test.timeout="+limit.String())...)
	cmd.Env = []string{
		"PATH=/opt/cni/bin:/usr/local/bin:/usr/bin:/bin", "HOME=/root", "CI=true",
		protocol.GuestEnv + "=1", protocol.BootEnv + "=" + strconv.Itoa(cfg.Boot),
	}
	cmd.Dir = "/root"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the tests: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid:
			fmt.Println("machine: the tests were ended by a signal:", status.Signal())
			return panicked, nil
		}
	}
}

func testLimit(limit time.Duration, uptime string) (time.Duration, error) {
	up, err := strconv.ParseFloat(uptime, 64)
	if err != nil {
		return 0, fmt.Errorf("read the uptime: %w", err)
	}
	left := limit - time.Duration(up*float64(time.Second)) - reportTime
	// A limit of 0 would be none.
	return max(left.Round(time.Second), time.Second), nil
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// uptime is the time since the kernel began, in seconds, or "?".
func uptime() string {
	data, err := os.ReadFile("/proc/uptime")
	seconds, _, ok := strings.Cut(string(data), " ")
	if err != nil || !ok {
		return "?"
	}
	return seconds
}
