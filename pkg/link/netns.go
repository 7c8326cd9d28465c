package link

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Errors of OpenNetns. A path that does not exist is fs.ErrNotExist.
var (
	// ErrNotNetns is returned when the path is there and is not a network namespace.
	ErrNotNetns = errors.New("not a network namespace")
)

// Netns is an open network namespace. It stays the same when its path is unmounted or reused.
type Netns struct {
	nodestate.Netns
	ns ns.NetNS
}

// OpenNetns opens the network namespace at path. Errors: fs.ErrNotExist, ErrNotNetns.
func OpenNetns(path string) (*Netns, error) {
	n, err := ns.GetNS(path)
	var missing ns.NSPathNotExistErr
	var other ns.NSPathNotNSErr
	switch {
	case errors.As(err, &missing):
		return nil, fmt.Errorf("open netns %s: %w", path, fs.ErrNotExist)
	case errors.As(err, &other):
		return nil, fmt.Errorf("open netns %s: %w", path, ErrNotNetns)
	case err != nil:
		return nil, fmt.Errorf("open netns %s: %w", path, err)
	}
	return identify(n, path, (*Netns).Do)
}

// CurrentNetns opens the calling thread's network namespace.
func CurrentNetns() (*Netns, error) {
	n, err := ns.GetCurrentNS()
	if err != nil {
		return nil, fmt.Errorf("open the current netns: %w", err)
	}
	return identify(n, n.Path(), func(_ *Netns, f func() error) error { return f() })
}

// Current says whether the calling thread is in the namespace. Both exist, so the inode number tells.
func (n *Netns) Current() (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(threadNetns, &st); err != nil {
		return false, fmt.Errorf("stat the current netns: %w", err)
	}
	return st.Ino == n.Inode, nil
}

// threadNetns is the calling thread's network namespace (namespaces(7)).
const threadNetns = "/proc/thread-self/ns/net"

// identify reads the identity of a namespace, in it by way of enter.
func identify(n ns.NetNS, path string, enter func(*Netns, func() error) error) (*Netns, error) {
	out := &Netns{ns: n, Netns: nodestate.Netns{Path: path}}
	var st unix.Stat_t
	if err := unix.Fstat(int(n.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat netns %s: %w", path, err), n.Close())
	}
	out.Inode = st.Ino
	if byPID(path) {
		out.PIDNamespace = nodestate.PIDNamespace()
	}
	if err := enter(out, func() (err error) { out.Cookie, err = cookie(); return err }); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return out, nil
}

// cookie returns SO_NETNS_COOKIE of the calling thread's netns, or 0 where the
// kernel does not know the option (before Linux 5.14).
func cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket for the netns cookie: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // never written to
	v, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read netns cookie: %w", err)
	}
	return v, nil
}

// Close releases the namespace; it lives on while anything else holds it.
func (n *Netns) Close() { n.ns.Close() } //nolint:errcheck,gosec // opened for reading only

// FDPath is a path by which this process can open the namespace anew, even if its own path is gone.
func (n *Netns) FDPath() string { return fmt.Sprintf("/proc/self/fd/%d", n.ns.Fd()) }

// Do runs f in the namespace, on the calling goroutine and its thread; other goroutines, also f's own, stay where they
// are. ns.NetNS.Do would start a goroutine, and so a thread, for each call: the plugin's main goroutine keeps its own.
// It panics when the thread cannot go back, and leaves the goroutine locked to it, so that no other goroutine runs
// there.
func (n *Netns) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open(threadNetns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(home) //nolint:errcheck // opened for reading only
		err = n.ns.Set()
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter netns %s: %w", n.Path, err)
	}
	defer func() {
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("cannot leave netns %s: %v", n.Path, err))
		}
		runtime.UnlockOSThread()
	}()
	if err := f(); err != nil {
		return fmt.Errorf("in netns %s: %w", n.Path, err)
	}
	return nil
}

// Open returns a Handle in the namespace.
func (n *Netns) Open() (h *Handle, err error) {
	err = n.Do(func() (err error) { h, err = Open(); return err })
	return h, err
}

// SetSysctls lets f write sysctls of the namespace, named as paths under /proc/sys ("net/ipv4/conf/net1/rp_filter").
// One that the kernel does not have (IPv6 switched off, say) is fs.ErrNotExist. A sysctl that has the value already is
// not written, so that a read-only /proc/sys does not matter then.
func (n *Netns) SetSysctls(f func(set func(name, value string) error) error) error {
	return n.Do(func() error { return f(setSysctl) })
}

func setSysctl(name, value string) error {
	path := "/proc/sys/" + name
	fd, denied := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if denied != nil {
		var err error
		if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("set sysctl %s to %s: %w", name, value, denied)
		}
	}
	defer unix.Close(fd) //nolint:errcheck // a sysctl takes its value when it is written
	var old [64]byte     // more than any of the numbers that are set
	if n, err := unix.Pread(fd, old[:], 0); err == nil && strings.TrimSpace(string(old[:n])) == value {
		return nil
	}
	if denied == nil {
		_, denied = unix.Pwrite(fd, []byte(value), 0)
	}
	if denied != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, denied)
	}
	return nil
}
