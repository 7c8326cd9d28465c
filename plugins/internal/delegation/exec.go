package delegation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// busyTries bounds the attempts, busyWait apart, to start a plugin whose file is being
	// written, as in libcni.
	busyTries = 6
	busyWait  = time.Second
	// leftBehindWait bounds the wait for output that a plugin's child keeps open after the
	// plugin has exited.
	leftBehindWait = 500 * time.Millisecond
)

// pluginExec runs other plugins as libcni does, but in a removed folder: their relative
// paths lead nowhere, and they can create nothing there.
type pluginExec struct {
	version.PluginDecoder
	stderr io.Writer
	// folder is the first choice for the removed folder. The daemon's container, in which it
	// runs an orphan's DEL, can write nowhere else.
	folder string
	// intent is the running ADD's record; nil in other verbs. The plugin keeps it locked if this
	// process is killed.
	intent *nodestate.Record
}

// FindInPath is invoke.FindInPath.
func (*pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin returns a plugin's standard output. A plugin's error is a *types.Error, with the code
// and text that it printed, if any.
func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	dir, err := nowhere(e.folder)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", path, err)
	}
	defer dir.Close() //nolint:errcheck // nothing was written
	for try := 1; ; try++ {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, path) //nolint:gosec // a file of a plugin folder
		cmd.Dir = fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
		cmd.WaitDelay = leftBehindWait
		err := e.run(cmd)
		switch {
		case err == nil, errors.Is(err, exec.ErrWaitDelay):
			_, _ = stderr.WriteTo(e.stderr) // only informational
			return stdout.Bytes(), nil
		case errors.Is(err, syscall.ETXTBSY) && try < busyTries && wait(ctx, busyWait):
		default:
			return nil, pluginError(err, stdout.Bytes(), stderr.Bytes())
		}
	}
}

// run runs a plugin, which holds the intent's lock while it lives.
func (e *pluginExec) run(cmd *exec.Cmd) error {
	if e.intent != nil {
		heir, err := e.intent.Heir()
		if err != nil {
			return err
		}
		defer heir.Release()
		cmd.ExtraFiles = []*os.File{heir.File}
		if err := cmd.Start(); err != nil {
			return err
		}
		heir.Started(cmd.Process.Pid)
		return cmd.Wait()
	}
	return cmd.Run()
}

// wait reports false if ctx ends before d is over.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// nowhere opens a removed folder, created in ours or else in the usual places.
func nowhere(ours string) (*os.File, error) {
	var errs []error
	for _, in := range []string{ours, "/run", os.TempDir()} {
		path, err := os.MkdirTemp(in, ".nowhere-")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0) //nolint:gosec // just made
		return f, errors.Join(err, os.Remove(path))
	}
	return nil, fmt.Errorf("make an empty folder: %w", errors.Join(errs...))
}

// pluginError returns a plugin's printed error, or one with its exit status and output.
func pluginError(err error, stdout, stderr []byte) error {
	var printed types.Error
	switch {
	case len(stdout) > 0:
		if json.Unmarshal(stdout, &printed) != nil {
			printed.Msg = fmt.Sprintf("failed (%v) and printed %q, which is not a CNI error", err, clipped(stdout))
		}
	case len(stderr) > 0:
		printed.Msg = fmt.Sprintf("failed (%v): %q", err, clipped(stderr))
	default:
		printed.Msg = fmt.Sprintf("failed without a message: %v", err)
	}
	return &printed
}

func clipped(out []byte) []byte {
	const most = 1024
	return out[:min(most, len(out))]
}
