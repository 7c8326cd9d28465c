package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// devicesDir is where the devices controller is mounted. Version 1 needs no program for the kernel.
const devicesDir = "/run/cgroup-devices"

// containerEnv is the variable with the container of a child process.
const containerEnv = "GUEST_CONTAINER"

// Container is what a container's process has of the node's devices: those of the answer, and nothing but the ones that every
// container has (OCI runtime specification, "Default Devices").
type Container struct {
	t      testing.TB
	group  string
	answer *deviceapi.ContainerAllocateResponse
}

// node is a device node of a container.
type node struct {
	Path, Kind   string // Kind is "c", as in the devices controller
	Major, Minor uint32
}

func (n node) rule() string { return fmt.Sprintf("%s %d:%d rw", n.Kind, n.Major, n.Minor) }

func defaultNodes() []node {
	return []node{{"/dev/null", "c", 1, 3}, {"/dev/zero", "c", 1, 5}, {"/dev/full", "c", 1, 7}, {"/dev/random", "c", 1, 8}, {"/dev/urandom", "c", 1, 9}}
}

// NewContainer makes a container of a device plugin's answer, until the test's end.
func NewContainer(t testing.TB, name string, answer *deviceapi.ContainerAllocateResponse) *Container {
	t.Helper()
	Must(t, os.MkdirAll(devicesDir, 0o755))
	Must(t, unix.Mount("devices", devicesDir, "cgroup", 0, "devices"))
	t.Cleanup(func() { Must(t, unix.Unmount(devicesDir, unix.MNT_DETACH)) })
	c := &Container{t: t, group: filepath.Join(devicesDir, name), answer: answer}
	Must(t, os.Mkdir(c.group, 0o755))
	t.Cleanup(func() {
		Eventually(t, "the container is empty", settleTime, func() bool { return os.Remove(c.group) == nil })
	})
	WriteSys(t, c.group+"/devices.deny", "a")
	for _, n := range c.nodes() {
		WriteSys(t, c.group+"/devices.allow", n.rule())
	}
	return c
}

// nodes are the device nodes inside, by the nodes of the host.
func (c *Container) nodes() []node {
	c.t.Helper()
	all := defaultNodes()
	for _, d := range c.answer.GetDevices() {
		var st unix.Stat_t
		if err := unix.Stat(d.GetHostPath(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			c.t.Fatalf("the answer's device %s: %v, mode %o", d.GetHostPath(), err, st.Mode)
		}
		all = append(all, node{d.GetContainerPath(), "c", unix.Major(st.Rdev), unix.Minor(st.Rdev)})
	}
	return all
}

// Command returns a command that will run in the container, with the variables of the answer.
func (c *Container) Command(program string, args ...string) *exec.Cmd {
	c.t.Helper()
	path, err := exec.LookPath(program)
	Must(c.t, err)
	setup, err := json.Marshal(containerSetup{Group: c.group, Nodes: c.nodes(), Path: path})
	Must(c.t, err)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), containerEnv+"="+string(setup))
	for name, value := range c.answer.GetEnvs() {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return cmd
}

// Open opens device nodes in the container, and returns the errors' texts by path; "" for none. A node of the host that is missing
// inside is made first, as root could.
func (c *Container) Open(paths ...string) map[string]string {
	c.t.Helper()
	cmd := c.Command("/proc/self/exe")
	cmd.Env = append(cmd.Env, openEnv+"="+strings.Join(paths, ","))
	for _, p := range paths {
		var st unix.Stat_t
		Must(c.t, unix.Stat(p, &st))
		cmd.Env = append(cmd.Env, openEnv+p+"="+strconv.FormatUint(st.Rdev, 10))
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	Must(c.t, err)
	errs := map[string]string{}
	if err := json.Unmarshal(out, &errs); err != nil {
		c.t.Fatalf("open nodes in a container: %v: %s", err, out)
	}
	return errs
}

type containerSetup struct {
	Group, Path string
	Nodes       []node
}

// openEnv is the variable with the nodes that a child process is to open. With a path after it, it has the node's number.
const openEnv = "GUEST_OPEN"

// enterContainer makes the process the container's, and the program of its setup.
func enterContainer(text string) error {
	var s containerSetup
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	for _, m := range []struct {
		fstype, path string
		flags        uintptr
	}{{"", "/", unix.MS_REC | unix.MS_PRIVATE}, {"tmpfs", "/dev", unix.MS_NOSUID}, {"hugetlbfs", "/dev/hugepages", 0}} {
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fstype, m.path, m.fstype, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	for _, n := range s.Nodes {
		if err := os.MkdirAll(filepath.Dir(n.Path), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(n.Path, unix.S_IFCHR|0o666, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
			return fmt.Errorf("make %s: %w", n.Path, err)
		}
	}
	if err := os.WriteFile(s.Group+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("enter the cgroup: %w", err)
	}
	if err := os.Unsetenv(containerEnv); err != nil {
		return err
	}
	return unix.Exec(s.Path, append([]string{s.Path}, os.Args[1:]...), os.Environ())
}

// openNodes prints the errors of opening nodes.
func openNodes(paths []string) error {
	errs := map[string]string{}
	for _, p := range paths {
		errs[p] = ""
		if err := openNode(p); err != nil {
			errs[p] = err.Error()
		}
	}
	return json.NewEncoder(os.Stdout).Encode(errs)
}

func openNode(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		number, convErr := strconv.Atoi(os.Getenv(openEnv + path))
		if convErr != nil {
			return convErr
		}
		if mkErr := unix.Mknod(path, unix.S_IFCHR|0o666, number); mkErr != nil {
			return fmt.Errorf("%w; make it: %w", err, mkErr)
		}
	}
	f, openErr := os.OpenFile(path, os.O_RDWR, 0)
	if openErr != nil {
		return fmt.Errorf("%w; open it: %w", err, openErr)
	}
	return f.Close()
}
