package orphan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// PluginName is the only program that is run.
const PluginName = "multi-eni"

const (
	// pipeWait bounds the wait for output that a child of a killed plugin still holds open.
	pipeWait = 2 * time.Second
	// maxOutput bounds the kept plugin output, in octets.
	maxOutput = 16 << 10
	// searchPath is the plugin's PATH: delegates may run iptables and the like.
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// errStillThere: the DEL succeeded without effect.
var errStillThere = errors.New("the plugin's DEL succeeds but leaves the record, so it looks for records elsewhere; " +
	"let dataDir of its policy or netconf and --attachments-dir be the same folder")

type pluginError struct {
	path string
	err  error
}

func (e *pluginError) Error() string { return fmt.Sprintf("plugin %q: %v", e.path, e.err) }
func (e *pluginError) Unwrap() error { return e.err }

// writing: another process works on the attachment now, with ADD or DEL. A missing or unreadable record is no orphan either.
func (s *Sweeper) writing(ctx context.Context, a nodestate.Attachment) bool {
	r, err := s.lock(ctx, a.AttachmentID)
	return err != nil || !sameRecord(r, a)
}

// lock reads the record under its lock, without waiting for another holder.
func (s *Sweeper) lock(ctx context.Context, id nodestate.AttachmentID) (nodestate.Attachment, error) {
	now, cancel := context.WithCancel(ctx)
	cancel()
	r, err := s.Attachments.Lock(now, id)
	if err != nil {
		return nodestate.Attachment{}, err
	}
	defer r.Close()
	return r.Attachment, nil
}

// release runs the plugin's DEL for the record and makes sure of its effect.
func (s *Sweeper) release(ctx context.Context, a nodestate.Attachment) error {
	bin, err := openPlugin(filepath.Join(s.BinDir, PluginName))
	if err != nil {
		return err
	}
	defer bin.Close() //nolint:errcheck // only a reference to the file
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := runDEL(ctx, bin, s.BinDir, a); err != nil {
		return err
	}
	switch left, err := s.lock(ctx, a.AttachmentID); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case sameRecord(left, a):
		return errStillThere
	}
	return nil
}

// openPlugin opens the plugin's binary with O_PATH, so that the checked file is the one that runs.
func openPlugin(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &pluginError{path, err}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = checkPlugin(&st, os.Geteuid())
	}
	if err != nil {
		f.Close() //nolint:errcheck,gosec // only a reference to the file
		return nil, &pluginError{path, err}
	}
	return f, nil
}

// CheckPlugin says why the plugin at path would not be run; nil if it would.
func CheckPlugin(path string) error {
	f, err := openPlugin(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// checkPlugin refuses a file that users other than root and this process's may have written.
func checkPlugin(st *unix.Stat_t, euid int) error {
	switch perm := fs.FileMode(st.Mode & 0o777); {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return errors.New("is a symbolic link; want the file itself")
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("is not a regular file")
	case st.Uid != 0 && st.Uid != uint32(euid):
		return fmt.Errorf("belongs to user %d; want root", st.Uid)
	case perm&0o022 != 0:
		return fmt.Errorf("is writable by others (mode %04o); want 0755", perm)
	case perm&0o111 == 0:
		return fmt.Errorf("is not executable (mode %04o); want 0755", perm)
	}
	return nil
}

// runDEL runs the plugin with the recorded netconf. CNI_NETNS stays empty: the recorded path may be another pod's by now, and the record lists
// the effects to undo. When ctx ends, the plugin's process group is killed, and the next DEL continues by the record.
func runDEL(ctx context.Context, bin *os.File, binDir string, a nodestate.Attachment) error {
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3") // bin, in the child
	cmd.Args = []string{bin.Name()}
	cmd.ExtraFiles = []*os.File{bin}
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=" + searchPath, "CNI_COMMAND=DEL", "CNI_CONTAINERID=" + a.ContainerID, "CNI_IFNAME=" + a.IfName,
		"CNI_ARGS=" + a.Args, "CNI_PATH=" + binDir, "CNI_NETNS=",
	}
	var stdout, stderr tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(a.Config), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeWait
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("run %s DEL: %w", bin.Name(), context.Cause(ctx))
	case err == nil:
		return nil
	}
	return fmt.Errorf("run %s DEL: %w: %s", bin.Name(), err, complaint(stdout, stderr))
}

// complaint is the plugin's error: the CNI error on standard output (CNI spec 1.1.0, section 5), whose message names the code,
// else the end of standard error.
func complaint(stdout, stderr tail) string {
	var e types.Error
	if json.Unmarshal(stdout, &e) == nil && e.Msg != "" {
		return strings.TrimSpace(e.Msg + " " + e.Details)
	}
	if said := strings.TrimSpace(string(stderr)); said != "" {
		return said
	}
	return "it said nothing"
}

// tail is a writer that keeps the last maxOutput octets.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-maxOutput):]
	return len(p), nil
}
