package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	connectTime = 20 * time.Second
	// upTime bounds a boot until PID 1 is ready: five times the time on two cores.
	upTime = 45 * time.Second
	// maxTries is how often one boot is tried: a busy host's QEMU now and then dies of an assertion of its own.
	maxTries = 3
	// maxBoots limits the boots of one package.
	maxBoots = 10
)

// errNotUp marks a machine that ended by itself before any test began, so that it may be tried again.
var errNotUp = errors.New("the machine has not come up")

var errDied = errors.New("died")

// errLifeless is the reason for ending a boot that takes too long.
var errLifeless = fmt.Errorf("PID 1 has not said a word within %v", upTime)

type host struct {
	spec   Spec
	bin    string // the repository's bin/
	kernel kernel
	dir    string // temporary files
	out    io.Writer

	modules []string          // to load, see protocol.Config
	nics    []NIC             // plugged in at the next boot
	next    *protocol.Request // the reboot that was asked for
	failed  bool              // a test of an earlier boot failed
}

type kernel struct {
	image   string // boot/vmlinuz-<release>
	modules string // lib/modules/<release>
}

func findKernel(root string) (kernel, error) {
	var k kernel
	for pattern, to := range map[string]*string{"boot/vmlinuz-*": &k.image, "lib/modules/*": &k.modules} {
		for _, dir := range []string{"", "usr"} {
			found, err := filepath.Glob(filepath.Join(root, dir, pattern))
			if err != nil {
				return kernel{}, err
			}
			if len(found) == 1 {
				*to = found[0]
			}
		}
		if *to == "" {
			return kernel{}, fmt.Errorf("no kernel in %s: run: make hardware-tools", root)
		}
	}
	return k, nil
}

func run(ctx context.Context, s Spec) (status int, err error) {
	repo, err := nstest.Repo()
	if err != nil {
		return 0, err
	}
	h := &host{spec: s, bin: filepath.Join(repo, "bin"), nics: s.NICs, out: os.Stdout}
	if h.kernel, err = findKernel(filepath.Join(h.bin, "hardware/kernel")); err != nil {
		return 0, err
	}
	if h.dir, err = os.MkdirTemp("", "machine-"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(h.dir)) }()
	began := time.Now()
	base, err := h.baseFiles()
	if err != nil {
		return 0, err
	}
	if err := base.save(h.path("base")); err != nil {
		return 0, fmt.Errorf("write the initramfs: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, fmt.Errorf("the machine was given %v (Spec.Timeout)", s.Timeout))
	defer cancel()
	for boot := 1; ; boot++ {
		status, err := h.boot(ctx, boot, began.Add(s.Timeout))
		if err != nil || h.next == nil {
			if h.failed && status == 0 {
				status = 1
			}
			return status, err
		}
		if boot == maxBoots {
			return 0, fmt.Errorf("the tests asked for more than %d boots", maxBoots)
		}
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// boot runs one boot until deadline. When h.next is set, the tests' status is undefined: some have not run.
func (h *host) boot(ctx context.Context, number int, deadline time.Time) (status int, err error) {
	cfg := protocol.Config{Boot: number, Modules: h.modules}
	if h.spec.DPDK {
		cfg.Hugepages = hugepages
	}
	var run string
	var kept []byte
	if h.next != nil {
		run, kept = h.next.Run, h.next.Kept
		h.next = nil
	}
	cfg.Args = guestArgs(os.Args[1:], run)
	for try := 1; ; try++ {
		cfg.Limit = time.Until(deadline)
		if err := h.writeInitramfs(cfg, kept); err != nil {
			return 0, fmt.Errorf("write the initramfs: %w", err)
		}
		status, err := h.start(ctx)
		if !errors.Is(err, errNotUp) || ctx.Err() != nil || try == maxTries {
			return status, err
		}
		fmt.Fprintf(h.out, "machine: boot %d: %v\nmachine: no test has begun, so it is tried again\n", number, err)
	}
}

func (h *host) writeInitramfs(cfg protocol.Config, kept []byte) error {
	f, err := h.bootFiles(cfg, kept)
	if err != nil {
		return err
	}
	if err := f.save(h.path("boot")); err != nil {
		return err
	}
	return join(h.path("initramfs"), h.path("base"), h.path("boot"))
}

func join(to string, from ...string) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for _, name := range from {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		n, err := io.Copy(out, in)
		in.Close()
		if err == nil {
			_, err = out.Write(make([]byte, (4-n%4)%4))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *host) start(ctx context.Context) (status int, err error) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return 0, errors.New("no qemu-system-x86_64: run: make hardware-tools, which says how to install it")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var listeners [2]net.Listener
	for i, name := range []string{"qmp", "requests"} {
		if err := os.RemoveAll(h.path(name)); err != nil {
			return 0, err
		}
		if listeners[i], err = (&net.ListenConfig{}).Listen(ctx, "unix", h.path(name)); err != nil {
			return 0, err
		}
		defer listeners[i].Close()
	}
	cmd := exec.CommandContext(ctx, program, h.arguments()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &complaints{to: os.Stderr}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start QEMU: %w", err)
	}
	watchdog := time.AfterFunc(upTime, func() { cancel(errLifeless) })
	defer watchdog.Stop()
	served := make(chan error, 1)
	go func() { served <- h.serve(ctx, listeners[0], listeners[1]) }()
	up := false
	last := h.show(console, func() { up = true; watchdog.Stop() })
	waiting := cmd.Wait()
	cause := context.Cause(ctx)
	cancel(nil)
	serving := <-served
	if cause != nil {
		err = fmt.Errorf("the machine was stopped: %w", cause)
	} else {
		status, err = h.outcome(cmd.ProcessState.ExitCode(), waiting, serving, last)
	}
	if !up && (errors.Is(err, errLifeless) || errors.Is(err, errDied)) {
		err = fmt.Errorf("%w: %w", errNotUp, err)
	}
	return status, err
}

// complaints copies QEMU's messages by line, except one warning: the wire between the NICs has no outer end on purpose.
type complaints struct {
	to   io.Writer
	rest []byte // a line that has no end yet
}

const loneHub = "warning: hub 0 is not connected to host network"

func (c *complaints) Write(p []byte) (int, error) {
	c.rest = append(c.rest, p...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		if !bytes.HasSuffix(line, []byte(loneHub)) {
			if _, err := fmt.Fprintf(c.to, "%s\n", line); err != nil {
				return 0, err
			}
		}
		c.rest = rest
	}
}

func (h *host) outcome(exit int, waiting, serving error, last string) (int, error) {
	switch {
	case exit == protocol.ExitStatus(protocol.Rebooting) && h.next != nil:
		return 0, nil
	case exit == protocol.ExitStatus(protocol.NotReady):
		return 0, errors.New("PID 1 could not make the machine ready; it says why above")
	case exit&1 == 1 && exit>>1&^0xf == protocol.TestsEnded:
		return exit >> 1 & 0xf, nil
	case exit == 0:
		return 0, fmt.Errorf("the guest's kernel %w; its last words:\n%s", errDied, last)
	case exit == -1:
		return 0, errors.Join(fmt.Errorf("QEMU %w: %w", errDied, waiting), serving)
	}
	return 0, errors.Join(fmt.Errorf("QEMU ended without a word of the tests: %w", waiting), serving)
}

// failure matches the line of a failed test; test2json's mode marks it with a control character.
var failure = regexp.MustCompile(`^\x16?\s*--- FAIL: `)

// show copies the console without carriage returns, and returns its last lines. It calls up when PID 1 is ready.
func (h *host) show(console io.Reader, up func()) string {
	const keep = 30
	var last []string
	in := bufio.NewReader(console)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			line = strings.ReplaceAll(line, "\r", "")
			io.WriteString(h.out, line) //nolint:errcheck,gosec // there is nobody else to tell
			if strings.HasPrefix(line, protocol.Ready) {
				up()
			}
			h.failed = h.failed || failure.MatchString(line)
			last = append(last, line)
			if len(last) > keep {
				last = last[1:]
			}
		}
		if err != nil {
			return strings.Join(last, "")
		}
	}
}
