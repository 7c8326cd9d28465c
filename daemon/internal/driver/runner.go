package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Command is the command of multi-enid that carries out an order.
const Command = "bind-driver"

// LockFD is the descriptor by which the command inherits the device's lock.
const LockFD = 3

// Runner starts a process for each order. It holds no state and is safe for concurrent use.
type Runner struct {
	Program string    // the path of multi-enid
	Stderr  io.Writer // Stderr gets a copy of the child's standard error; nil for none
}

// Do carries out an order, and returns when the child has ended, after any time. The child inherits lock, the device's
// lock, which is held until both caller and child have closed it.
//
// There is no context: a signal cannot end a child that hangs in the kernel, and others end soon. The child has its own
// process group, so it survives the daemon.
func (r Runner) Do(o Order, lock *os.File) error {
	input, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	said := &head{}
	cmd := exec.Command(r.Program, Command) //nolint:forbidigo // not cancellable by design: see above
	cmd.Dir = "/"
	cmd.Env = []string{} // nil would be ours
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = said
	if r.Stderr != nil {
		cmd.Stderr = io.MultiWriter(said, r.Stderr)
	}
	cmd.ExtraFiles = []*os.File{lock} // LockFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Run()
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(said.String(), "multi-enid: ")
	var exit *exec.ExitError
	if text == "" || !errors.As(err, &exit) || !exit.Exited() {
		return fmt.Errorf("run %s %s for %s: %w%s", r.Program, Command, o.Address, err, because(text))
	}
	return errors.New(text)
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// maxSaid bounds the kept output of the child, in bytes: a crash of the Go runtime is long.
const maxSaid = 2 << 10

// head keeps the beginning of its input.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxSaid-len(h.kept))]...)
	return len(p), nil
}

func (h *head) String() string {
	return strings.ToValidUTF8(strings.TrimSpace(string(h.kept)), "\uFFFD")
}

// Serve carries out the order that Runner has written to stdin. It refuses to do so without the device's lock.
func Serve(stdin io.Reader) error {
	order, err := DecodeOrder(stdin)
	if err != nil {
		return err
	}
	if err := holdsLock(LockFD); err != nil {
		return err
	}
	return Execute(order)
}

// holdsLock checks that fd was inherited and has the device's lock. A lock belongs to the open file, so taking it again
// changes nothing. The Go runtime opens its own files close-on-exec.
func holdsLock(fd int) error {
	const hint = "this command is only for multi-enid run to start"
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return fmt.Errorf("descriptor %d is no claim lock; %s", fd, hint)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("the claim lock of the device is another's; " + hint)
	}
	if err != nil {
		return fmt.Errorf("descriptor %d is no claim lock: %w; %s", fd, err, hint)
	}
	return nil
}

// Node acts on the PCI functions of this node, as far as its policy allows.
type Node struct {
	sys          sysfs.FS
	dev, modules string
	policy       Policy
	runner       Runner
}

// NewNode returns a Node. dev is the folder of device nodes, and modules has lib/modules.
func NewNode(sys sysfs.FS, dev, modules string, p Policy) Node {
	return Node{sys: sys, dev: dev, modules: modules, policy: p, runner: Runner{Program: "/proc/self/exe"}} // the file may have been replaced
}

// Obstacle implements Actions.
func (n Node) Obstacle(fn sysfs.PCIFunction, to string, all map[device.PCIAddress]sysfs.PCIFunction, wanted func(device.PCIAddress) bool) (*Obstacle, error) {
	facts, err := ReadFacts(n.sys, n.modules)
	if err != nil {
		return nil, err
	}
	return Check(fn, to, all, wanted, facts, n.policy), nil
}

// Open implements Actions.
func (n Node) Open(fn sysfs.PCIFunction) (by string, open bool, err error) {
	return InUse(n.sys, n.dev, fn)
}

// Bind implements Actions with a process of its own, which survives this one.
func (n Node) Bind(fn sysfs.PCIFunction, to string, lock *os.File) error {
	return n.runner.Do(Order{
		Address: fn.Address, Instance: fn.Instance, Driver: to, LoadModule: n.policy.LoadModules, UnsafeNoIOMMU: n.policy.AllowUnsafeNoIOMMU,
		Sysfs: n.sys.Root(), Modules: n.modules,
	}, lock)
}
