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
)

// Command is the name of multi-enid's command that carries out an order.
const Command = "bind-driver"

// LockFD is the descriptor by which that command inherits the claim lock.
const LockFD = 3

// Runner has orders carried out by processes of their own. It holds no state and
// is safe for concurrent use.
type Runner struct {
	// Program is the path of multi-enid.
	Program string
	// Stderr also gets whatever the child says; nil for nobody.
	Stderr io.Writer
}

// Do has an order carried out, and returns when the child has ended, however
// long that takes. lock is the device's claim lock, which the child inherits: it
// is held until caller and child have both let it go.
//
// There is no context on purpose. A child that hangs in the kernel cannot be
// ended by a signal, and one that does not hang is done in a moment; stopping it
// half-way would only leave more to make good. It is in a process group of its
// own, so that what ends the daemon passes it by, and it survives the daemon.
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

// maxSaid is how much of what a child says is kept, in bytes: an error of ours
// is a line, a crash of the runtime is a book.
const maxSaid = 2 << 10

// head keeps the beginning of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxSaid-len(h.kept))]...)
	return len(p), nil
}

func (h *head) String() string {
	return strings.ToValidUTF8(strings.TrimSpace(string(h.kept)), "\uFFFD")
}
