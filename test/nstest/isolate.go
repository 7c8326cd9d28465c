// Package nstest gives tests and the demo a node of their own on the real kernel, without root: user, network and mount
// namespaces, veth pairs that stand in for ENIs, and a recorded sysfs tree with their PCI functions.
package nstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const insideEnv = "MULTI_ENI_NSTEST_INSIDE"

// Outside runs the calling top-level test once more in a child process with namespaces of its own, reports its outcome,
// and returns true; the test then returns at once. In the child it prepares the node and returns false:
//
//	func TestX(t *testing.T) {
//		if nstest.Outside(t) {
//			return
//		}
//
// Where the kernel denies user namespaces the test is skipped with the reason; with CI=true it fails.
func Outside(t *testing.T) bool {
	t.Helper()
	return outside(t, Command)
}

// OutsideAsRoot is Outside, but root keeps its user namespace. Then bpf(2) works, and everything else that
// the kernel permits in the first user namespace only. Other users get a new one.
func OutsideAsRoot(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return outside(t, Command)
	}
	return outside(t, isolated)
}

func outside(t *testing.T, command func(ctx context.Context, name string, args ...string) *exec.Cmd) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		if err := Prepare(); err != nil {
			t.Fatal(err)
		}
		return false
	}
	t.Parallel() // it shares nothing with the others
	args := []string{"-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.count=1", "-test.v=" + fmt.Sprint(testing.Verbose())}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+fmt.Sprint(time.Until(deadline).Round(time.Second)))
	}
	cmd := command(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if denied := Denied(err); denied != nil {
		cannot(t, denied)
	}
	text := strings.TrimSpace(string(out))
	if err != nil {
		t.Fatalf("in its own namespaces: %v\n%s", err, text)
	}
	if strings.Contains(text, "--- SKIP: "+t.Name()) {
		t.Skip(text)
	}
	if testing.Verbose() {
		t.Log(text)
	}
	return true
}

// Command returns a command that will run as root of a new user namespace, in new network and mount namespaces, and
// that dies with this thread's process. Root keeps its user namespace where the kernel allows no other one.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := isolated(ctx, name, args...)
	if os.Geteuid() != 0 || userNamespaces() {
		inUserNamespace(cmd.SysProcAttr)
	}
	return cmd
}

// isolated returns a command that will run in new network and mount namespaces.
func isolated(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	return cmd
}

func inUserNamespace(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// NeedUserNamespace skips a test that sets limits of its user namespace, where that
// would be the host's: see Command. With CI=true the test fails.
func NeedUserNamespace(t *testing.T) {
	t.Helper()
	if userNamespaces() {
		return
	}
	cannot(t, errors.New("the kernel gives no user namespace here (a chroot, or user.max_user_namespaces=0)"))
}

// cannot skips a test that cannot run on this machine. With CI=true it fails the test.
func cannot(t *testing.T, why error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// userNamespaces says whether the kernel gives this process a user namespace. In a
// chroot it gives none to anybody, and with user.max_user_namespaces=0 neither.
var userNamespaces = sync.OnceValue(func() bool {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	inUserNamespace(cmd.SysProcAttr)
	return cmd.Run() == nil
})

// Denied turns the error of starting a Command into the reason why this
// machine refuses user namespaces, with the way out; nil for any other error.
func Denied(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EACCES) {
		return nil
	}
	if os.Geteuid() == 0 {
		return fmt.Errorf("root may not make namespaces here (a container without CAP_SYS_ADMIN?): run it on the machine itself or in a privileged container: %w",
			err)
	}
	for sysctl, closed := range map[string]string{
		"kernel/apparmor_restrict_unprivileged_userns": "1",
		"kernel/unprivileged_userns_clone":             "0",
		"user/max_user_namespaces":                     "0",
	} {
		if v, readErr := os.ReadFile("/proc/sys/" + sysctl); readErr == nil && strings.TrimSpace(string(v)) == closed {
			return fmt.Errorf("this machine denies unprivileged user namespaces (sysctl %s = %s): run it as root (sudo), or change the sysctl: %w",
				strings.ReplaceAll(sysctl, "/", "."), closed, err)
		}
	}
	return fmt.Errorf("this machine denies user namespaces; run it as root (sudo): %w", err)
}

// hostConfig are folders of settings that the product or a reference plugin reads by a fixed path: the host's own must
// not decide over a test. containerd makes /etc/cni unreadable for users, and the plugin tuning then fails.
var hostConfig = []string{"/etc/cni", "/etc/multi-eni", "/etc/pcidp"}

// Prepare makes the fresh namespaces of a Command usable: private mounts, an
// empty /run and /var/lib, none of the host's settings, loopback up.
func Prepare() error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) { // in a chroot / is a folder like any other
		err = copyRoot()
	}
	if err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/run", "/var/lib"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount an empty %s: %w", dir, err)
		}
	}
	for _, dir := range hostConfig {
		// Where there is no such folder, there is nothing to hide.
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount an empty %s: %w", dir, err)
		}
	}
	return LoopbackUp()
}

// copyRoot makes / a mount, and private, for a process whose root is a plain folder. It
// puts a copy of / on a folder of /proc and makes that the root: /proc is the one mount
// that is sure to be there, so that the copy does not spread to the host's mounts.
func copyRoot() error {
	const place = "/proc/tty"
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/proc", "", unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("/", place, "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return unix.Mount("", place, "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Chroot(place) },
		func() error { return unix.Chdir(wd) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// NewNetns makes a network namespace and mounts it at path.
func NewNetns(path string) error {
	if err := touch(path); err != nil {
		return err
	}
	runtime.LockOSThread()
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	home, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own netns: %w", err)
	}
	defer unix.Close(home)
	err = mountNewNetns(self, path)
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("return to own netns: %w", back)) // the thread stays locked: it is lost
	}
	runtime.UnlockOSThread()
	return err
}

func mountNewNetns(self, path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make netns: %w", err)
	}
	if err := LoopbackUp(); err != nil {
		return err
	}
	if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount netns at %s: %w", path, err)
	}
	return nil
}

// DeleteNetns unmounts a namespace of NewNetns and removes its path. The namespace ends with its last process.
func DeleteNetns(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount netns %s: %w", path, err)
	}
	return os.Remove(path)
}
