package plane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopGrace is how long a process may take after SIGTERM before it is killed.
const stopGrace = 30 * time.Second

// Process is a background program that dies with the test binary. Its methods but Exited are for one goroutine.
type Process struct {
	// Log is the file with its output.
	Log string

	cmd    *exec.Cmd
	exited chan struct{}
	err    error // valid once exited is closed
}

// StartProcess runs argv with its output appended to log. env is added to the test binary's own.
func StartProcess(log string, env []string, argv ...string) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	defer out.Close()
	p := &Process{Log: log, exited: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// PID is the process's id in the test binary's pid namespace.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal; one to a process that has ended is an error.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the process at once and waits for its end. It ignores a nil process and one that has ended.
func (p *Process) Kill() {
	if p == nil {
		return
	}
	// The process has already ended if this fails.
	p.cmd.Process.Kill() //nolint:errcheck,gosec // see above
	<-p.exited
}

// Stop ends the process with SIGTERM and returns its outcome. It ignores a nil process and one that has ended.
func (p *Process) Stop() error {
	if p == nil {
		return nil
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return fmt.Errorf("stop %s: %w", p.name(), err)
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(stopGrace):
		p.Kill()
		return fmt.Errorf("stop %s: did not end within %v of SIGTERM", p.name(), stopGrace)
	}
}

func (p *Process) name() string { return filepath.Base(p.cmd.Path) }

const poll = 50 * time.Millisecond

func (p *Process) ready(ctx context.Context, probe func(context.Context) error) error {
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended while it was starting: %w\n%s", p.name(), p.err, Tail(p.Log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.name(), err, Tail(p.Log))
		case <-time.After(poll):
		}
	}
}

// tailBytes is the part of a log in a failure's message.
const tailBytes = 4 << 10

// Tail returns the end of a log, for a message.
func Tail(log string) string {
	data, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	if len(data) > tailBytes {
		data = data[len(data)-tailBytes:]
	}
	return string(data)
}
